-- The schema is the arbiter of the promise: these constraints reject coupon number capacity + 1 of every session that
-- has the server's checks on. What a session can do that switches them off is in SECURITY.md; who may do what is in
-- deploy/mysql/grants.sql. Portable across MySQL 8.0+/9 and MariaDB 10.6+. All times are UTC.

CREATE TABLE campaigns (
    id         VARCHAR(64) NOT NULL,
    state      VARCHAR(8)  NOT NULL DEFAULT 'open',
    opens_at   DATETIME(3) NOT NULL,
    closes_at  DATETIME(3) NULL,
    created_at DATETIME(3) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT campaign_state CHECK (state IN ('open', 'paused', 'closed')),
    CONSTRAINT campaign_window CHECK (closes_at IS NULL OR closes_at > opens_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- One row for each capacity that the campaign was ever granted; the greatest one is in force.
-- Raising a capacity is an act of its own, with a date.
CREATE TABLE allotments (
    campaign_id VARCHAR(64)  NOT NULL,
    capacity    INT UNSIGNED NOT NULL,
    granted_at  DATETIME(3)  NOT NULL,
    PRIMARY KEY (campaign_id, capacity),
    CONSTRAINT allotment_capacity CHECK (capacity >= 1),
    CONSTRAINT allotment_campaign FOREIGN KEY (campaign_id) REFERENCES campaigns (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- allotment repeats the capacity under which the row was written: the foreign key proves that it was
-- granted, the check keeps the slot below it.
CREATE TABLE coupons (
    campaign_id VARCHAR(64)  NOT NULL,
    slot        INT UNSIGNED NOT NULL,
    allotment   INT UNSIGNED NOT NULL,
    user_id     VARCHAR(128) NOT NULL,
    code        VARCHAR(32)  NOT NULL,
    admitted_at DATETIME(3)  NOT NULL,
    issued_at   DATETIME(3)  NOT NULL,
    PRIMARY KEY (campaign_id, slot),
    CONSTRAINT coupon_user UNIQUE (campaign_id, user_id),
    CONSTRAINT coupon_allotment FOREIGN KEY (campaign_id, allotment)
        REFERENCES allotments (campaign_id, capacity),
    CONSTRAINT coupon_slot CHECK (slot BETWEEN 1 AND allotment)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Claims that were admitted and can never be issued, each with its reason.
CREATE TABLE refusals (
    campaign_id   VARCHAR(64)  NOT NULL,
    user_id       VARCHAR(128) NOT NULL,
    proposed_slot INT UNSIGNED NOT NULL,
    reason        VARCHAR(32)  NOT NULL,
    admitted_at   DATETIME(3)  NOT NULL,
    refused_at    DATETIME(3)  NOT NULL,
    PRIMARY KEY (campaign_id, user_id),
    CONSTRAINT refusal_campaign FOREIGN KEY (campaign_id) REFERENCES campaigns (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
