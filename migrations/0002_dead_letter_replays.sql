-- Which dead letters an operator has sent again, and when: what remains is all the others. The time of
-- the dead letter is part of the key, since a topic that is created anew counts from 0 again.
CREATE TABLE dead_letter_replays (
    partition_id  INT         NOT NULL,
    record_offset BIGINT      NOT NULL,
    dead_at       DATETIME(3) NOT NULL,
    replayed_at   DATETIME(3) NOT NULL,
    PRIMARY KEY (partition_id, record_offset, dead_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
