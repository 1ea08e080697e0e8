-- name: rest_state
-- What was set, or NULL.
SELECT value FROM rest_state WHERE tenant = $1 AND name = $2

-- name: rest_state_set
-- Set it for all processes.
INSERT INTO rest_state (tenant, name, value) VALUES ($1, $2, $3) ON CONFLICT (tenant, name) DO UPDATE SET value = excluded.value

-- name: rest_metrics
-- Counts for Orthanc's metrics.
SELECT (SELECT last FROM change_counter) AS last_change,
       count(*) FILTER (WHERE state IN ('pending', 'retry', 'paused')) AS pending, count(*) FILTER (WHERE state = 'running') AS running,
       count(*) FILTER (WHERE state = 'success') AS success, count(*) FILTER (WHERE state = 'failure') AS failed
FROM job WHERE tenant = $1

-- name: pending_deletions
-- Objects that no row points at any more, and that are not deleted yet.
SELECT count(*) FROM tomb
