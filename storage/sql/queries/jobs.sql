-- name: job_create
-- See functions/jobs.sql.
SELECT job_create($1, $2, $3::text::jsonb, $4, $5, $6)

-- name: job_claim
-- The next job: one that waits, or one whose worker has not been heard of for $3.
UPDATE job SET state = 'running', worker = $2, heartbeat_at = now(), attempts = attempts + 1, started_at = coalesce(started_at, now())
WHERE id = (
    SELECT id FROM job
    WHERE kind = ANY ($1) AND (state IN ('pending', 'retry') AND run_after <= now() OR state = 'running' AND heartbeat_at < now() - $3::interval)
    ORDER BY priority DESC, created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, tenant, kind, content::text, object_key, object_size, attempts, created_at

-- name: job_beat
-- The worker lives and is so far; nothing where the job is not its own any more.
UPDATE job SET heartbeat_at = now(), progress = $3 WHERE id = $1 AND worker = $2 AND state = 'running' RETURNING cancel_requested

-- name: job_release
-- Not now: the job waits again, after $3.
UPDATE job SET state = 'retry', worker = NULL, heartbeat_at = NULL, run_after = now() + $3::interval, attempts = attempts - $4
WHERE id = $1 AND worker = $2 AND state = 'running'

-- name: job_end
-- See functions/jobs.sql.
SELECT job_end($1, $2, $3, $4::text::jsonb, $5, $6)

-- name: job_cancel
-- Who works on it looks here with every beat.
UPDATE job SET cancel_requested = true WHERE tenant = $1 AND id = $2 AND state = 'running'

-- name: job_get
-- One job.
SELECT id, kind, state, progress, attempts, result::text, error, created_at, started_at, finished_at FROM job WHERE tenant = $1 AND id = $2
