-- Grows with every change of a campaign's state or capacity. Redis gets it with the settings, and its scripts reject
-- settings of an older version: whoever is slow does not overwrite what others have decided meanwhile.
ALTER TABLE campaigns ADD COLUMN version INT UNSIGNED NOT NULL DEFAULT 1;
