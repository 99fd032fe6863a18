-- Claims whose proposed slot another user holds, while slots are free: Redis has lost data, so a free slot may belong to
-- a claim that was admitted earlier and is still under way. A claim waits as long as its user has neither coupon nor
-- refusal. `code` is that of the coupon, if it becomes one: the secret may be replaced meanwhile. No row is deleted
-- here either.
CREATE TABLE waiting_claims (
    campaign_id   VARCHAR(64)  NOT NULL,
    user_id       VARCHAR(128) NOT NULL,
    proposed_slot INT UNSIGNED NOT NULL,
    code          VARCHAR(32)  NOT NULL,
    admitted_at   DATETIME(3)  NOT NULL,
    waiting_since DATETIME(3)  NOT NULL,
    PRIMARY KEY (campaign_id, user_id),
    CONSTRAINT waiting_campaign FOREIGN KEY (campaign_id) REFERENCES campaigns (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
