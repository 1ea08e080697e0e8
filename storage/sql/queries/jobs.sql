-- name: job_create
-- See functions/jobs.sql.
SELECT job_create($1, $2, $3::text::jsonb, $4, $5, $6, $7, $8::text::jsonb, $9)

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
UPDATE job SET heartbeat_at = now(), progress = $3 WHERE id = $1 AND worker = $2 AND state = 'running' RETURNING cancel_requested, pause_requested

-- name: job_release
-- Not now: the job waits again, after $3.
UPDATE job SET state = 'retry', worker = NULL, heartbeat_at = NULL, run_after = now() + $3::interval, attempts = attempts - $4
WHERE id = $1 AND worker = $2 AND state = 'running'

-- name: job_end
-- See functions/jobs.sql.
SELECT job_end($1, $2, $3, $4::text::jsonb, $5, $6, $7, $8, $9)

-- name: job_cancel
-- Who works on it looks here with every beat.
UPDATE job SET cancel_requested = true WHERE tenant = $1 AND id = $2 AND state = 'running'

-- name: job_drop_result
-- The file that a job left is not wanted any more.
WITH held AS (
    SELECT id, result_key FROM job WHERE tenant = $1 AND id = $2 AND result_key IS NOT NULL FOR UPDATE
), dropped AS (
    UPDATE job SET result_key = NULL FROM held WHERE job.id = held.id RETURNING held.result_key
)
INSERT INTO tomb (key, not_before) SELECT result_key, now() + $3::interval FROM dropped ON CONFLICT DO NOTHING

-- name: job_waiting
-- How many jobs of a kind are not over, up to $3.
SELECT count(*) FROM (SELECT FROM job WHERE tenant = $1 AND kind = $2 AND finished_at IS NULL LIMIT $3) j

-- name: job_get
-- One job.
SELECT id, kind, state, progress, attempts, priority, content::text, result::text, error, error_kind, user_data::text, created_at, started_at, finished_at,
       result_key IS NOT NULL AS has_file
FROM job WHERE tenant = $1 AND id = $2

-- name: job_list
-- A page of jobs, the youngest first, from the one after $2 on; $3 and $4: state and kind, or NULL for any.
SELECT id, kind, state, progress, attempts, priority, content::text, result::text, error, error_kind, user_data::text, created_at, started_at, finished_at,
       result_key IS NOT NULL AS has_file
FROM job
WHERE tenant = $1 AND ($2::uuid IS NULL OR (created_at, id) < (SELECT created_at, id FROM job WHERE tenant = $1 AND id = $2))
  AND ($3::text IS NULL OR state = $3) AND ($4::text IS NULL OR kind = $4)
ORDER BY created_at DESC, id DESC LIMIT $5

-- name: job_file
-- Where the file lies that a job left.
SELECT kind, state, result_key, result_size, result::text FROM job WHERE tenant = $1 AND id = $2

-- name: job_drop_results
-- See functions/jobs.sql.
SELECT job_drop_results($1, $2)

-- name: job_expire
-- See functions/jobs.sql.
SELECT job_expire($1, $2, $3)

-- name: job_pause
-- At once where nobody works on it; who does looks here with every beat. No row: it is over.
UPDATE job SET pause_requested = state = 'running', state = CASE WHEN state = 'running' THEN state ELSE 'paused' END
WHERE tenant = $1 AND id = $2 AND finished_at IS NULL RETURNING true

-- name: job_paused
-- The worker has stopped.
UPDATE job SET state = 'paused', worker = NULL, heartbeat_at = NULL, pause_requested = false, attempts = attempts - 1
WHERE id = $1 AND worker = $2 AND state = 'running'

-- name: job_resume
-- It waits again. No row: it was not paused.
UPDATE job SET state = CASE WHEN state = 'paused' THEN 'pending' ELSE state END, pause_requested = false, run_after = now()
WHERE tenant = $1 AND id = $2 AND (state = 'paused' OR pause_requested) RETURNING true

-- name: job_resubmit
-- See functions/jobs.sql.
SELECT job_resubmit($1, $2)

-- name: job_delete
-- See functions/jobs.sql.
SELECT job_delete($1, $2, $3)

-- name: jobs_over
-- Which of these are over, or gone.
SELECT w.id FROM unnest($1::uuid[]) AS w (id) LEFT JOIN job USING (id) WHERE job.id IS NULL OR job.finished_at IS NOT NULL

-- name: job_items_open
-- Parts of a job that are to be done, from the one behind $2 on.
SELECT number, content FROM job_item WHERE job = $1 AND number > $2 AND status IS NULL ORDER BY number LIMIT $3

-- name: job_items_note
-- What became of parts.
UPDATE job_item SET status = d.status, comment = d.comment FROM unnest($2::integer[], $3::integer[], $4::text[]) AS d (number, status, comment)
WHERE job_item.job = $1 AND job_item.number = d.number

-- name: job_items_count
-- How many parts of each of these jobs there are, are over, and have failed.
SELECT job, count(*) AS total, count(status) AS over, count(*) FILTER (WHERE status <> 0) AS failed
FROM job_item WHERE job = ANY ($1) GROUP BY job

-- name: job_items_outcomes
-- What became of the first $2 parts of a job, in their order.
SELECT status, comment FROM job_item WHERE job = $1 ORDER BY number LIMIT $2

-- name: job_items_failed
-- Parts that have failed.
SELECT content, status, comment FROM job_item WHERE job = $1 AND status <> 0 ORDER BY number LIMIT $2
