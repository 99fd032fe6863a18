-- The gate in Cloudflare's Analytics Engine, where the dataset METRICS is bound (edge/wrangler.toml; its name there is
-- `dropgate`). Run a query with the SQL API, one at a time:
--   curl -H "Authorization: Bearer $TOKEN" --data-binary @query.sql \
--     https://api.cloudflare.com/client/v4/accounts/$ACCOUNT/analytics_engine/sql
--
-- A row is one counter of one isolate over a second or more:
--   blob1  kind: request, fault, unauthenticated
--   blob2  route, or the system that failed, or identity
--   blob3  outcome, or the label of the fault, or the reason
--   double1  count      double2  sum of the durations in ms
-- The engine may keep a sample only: `_sample_interval` is what each row stands for. What an isolate has not written when
-- it ends is lost. MySQL and "issuer verify" are the proof; these numbers are for watching.

-- Responses by outcome, per 10 s of the last hour. During a drop `admitted` ends at the capacity and `sold-out` begins.
SELECT toStartOfInterval(timestamp, INTERVAL '10' SECOND) AS at, blob3 AS outcome,
  SUM(_sample_interval * double1) AS responses
FROM dropgate
WHERE blob1 = 'request' AND timestamp > NOW() - INTERVAL '1' HOUR
GROUP BY at, outcome ORDER BY at, outcome;

-- Share of claims that got no decision (503) in the last 5 minutes. More than 0.01 during a drop: look at the faults.
SELECT SUM(IF(blob3 IN ('unavailable', 'misconfigured'), _sample_interval * double1, 0))
  / SUM(_sample_interval * double1) AS undecided
FROM dropgate
WHERE blob1 = 'request' AND blob2 = '/v1/campaigns/{id}/claims' AND timestamp > NOW() - INTERVAL '5' MINUTE;

-- Mean time of a response in ms, by route and outcome.
SELECT blob2 AS route, blob3 AS outcome, SUM(_sample_interval * double2) / SUM(_sample_interval * double1) AS mean_ms
FROM dropgate
WHERE blob1 = 'request' AND timestamp > NOW() - INTERVAL '15' MINUTE
GROUP BY route, outcome ORDER BY mean_ms DESC;

-- Faults by system and label. `went_back`: Redis lost acknowledged writes. `no_campaigns`: Redis is empty, or
-- REDIS_KEY_PREFIX differs. `other_code_key`: COUPON_CODE_SECRET differs.
SELECT blob2 AS source, blob3 AS label, SUM(_sample_interval * double1) AS faults
FROM dropgate
WHERE blob1 = 'fault' AND timestamp > NOW() - INTERVAL '15' MINUTE
GROUP BY source, label ORDER BY faults DESC;

-- Why users are not accepted.
SELECT blob3 AS reason, SUM(_sample_interval * double1) AS responses
FROM dropgate
WHERE blob1 = 'unauthenticated' AND timestamp > NOW() - INTERVAL '15' MINUTE
GROUP BY reason ORDER BY responses DESC;
