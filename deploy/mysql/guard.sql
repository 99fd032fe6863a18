-- Optional. A session can switch off foreign keys (`SET foreign_key_checks = 0`), in MariaDB also checks
-- (`check_constraint_checks = 0`). Whoever has the service's password could then insert coupon N + 1; `issuer verify`
-- reports it afterwards. With this trigger the database rejects that row too. It costs the server about a third more
-- processor time for each coupon (docs/operating.md), so no migration creates it.
--
-- Run it as an administrator, in dropgate's database: `mysql dropgate < deploy/mysql/guard.sql`. A server with a binary
-- log requires SUPER, or log_bin_trust_function_creators = 1 meanwhile.
-- A dump is restored as usual: its rows come before its triggers.
DELIMITER //
CREATE TRIGGER coupon_guard BEFORE INSERT ON coupons FOR EACH ROW
BEGIN
    IF NEW.slot < 1 OR NEW.slot > NEW.allotment THEN
        SIGNAL SQLSTATE '23000' SET MYSQL_ERRNO = 3819, MESSAGE_TEXT = 'coupon_guard: slot beyond the allotment';
    END IF;
    IF @@SESSION.unique_checks = 0 THEN
        SIGNAL SQLSTATE '23000' SET MYSQL_ERRNO = 1062, MESSAGE_TEXT = 'coupon_guard: unique_checks must be 1';
    END IF;
    IF @@SESSION.foreign_key_checks = 0 AND NOT EXISTS (
        SELECT 1 FROM allotments WHERE campaign_id = NEW.campaign_id AND capacity = NEW.allotment
    ) THEN
        SIGNAL SQLSTATE '23000' SET MYSQL_ERRNO = 1452, MESSAGE_TEXT = 'coupon_guard: this allotment was not granted';
    END IF;
END//
DELIMITER ;
