-- The rights that dropgate needs after `issuer migrate`: run this file as an administrator, in dropgate's database, and
-- again after each upgrade. It expects two users:
--   CREATE USER 'dropgate_service'@'%' IDENTIFIED BY '..';    for `issuer run` and `issuer check-config`
--   CREATE USER 'dropgate_operator'@'%' IDENTIFIED BY '..';   for all other commands except `migrate`
-- Nobody needs DELETE, and nobody needs UPDATE on coupons: no grant here lets a coupon be moved or taken away.

-- The service writes coupons, refusals, and claims that wait for one of both. It cannot grant a capacity. It changes no campaign: UPDATE on one column is
-- what MySQL wants for the lock that it takes on a campaign's row.
GRANT SELECT ON dropgate_migrations TO 'dropgate_service'@'%';
GRANT SELECT, UPDATE (version) ON campaigns TO 'dropgate_service'@'%';
GRANT SELECT ON allotments TO 'dropgate_service'@'%';
GRANT SELECT, INSERT ON coupons TO 'dropgate_service'@'%';
GRANT SELECT, INSERT ON refusals TO 'dropgate_service'@'%';
GRANT SELECT, INSERT ON waiting_claims TO 'dropgate_service'@'%';

-- The operator creates, changes and audits campaigns, and writes no coupon. `reconcile --reissue` does: run it as the
-- service.
GRANT SELECT ON dropgate_migrations TO 'dropgate_operator'@'%';
GRANT SELECT, INSERT, UPDATE ON campaigns TO 'dropgate_operator'@'%';
GRANT SELECT, INSERT ON allotments TO 'dropgate_operator'@'%';
GRANT SELECT ON coupons TO 'dropgate_operator'@'%';
GRANT SELECT ON refusals TO 'dropgate_operator'@'%';
GRANT SELECT ON waiting_claims TO 'dropgate_operator'@'%';
GRANT SELECT, INSERT ON dead_letter_replays TO 'dropgate_operator'@'%';
