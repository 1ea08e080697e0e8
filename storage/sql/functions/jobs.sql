-- job_create: a new job, with the object that was put for it, whose intent it takes over. NULL: the intent was swept, or `once` was asked for before.
DROP FUNCTION IF EXISTS job_create(integer, text, jsonb, text, bigint, text);
CREATE OR REPLACE FUNCTION job_create(
    p_tenant integer, p_kind text, p_content jsonb, p_key text, p_size bigint, p_once text, p_priority integer, p_user jsonb, p_items text[]
) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    v_id uuid;
BEGIN
    IF p_key IS NOT NULL THEN
        DELETE FROM intent WHERE key = p_key AND claimed_at IS NULL;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO job (tenant, kind, content, object_key, object_size, once, priority, user_data)
    VALUES (p_tenant, p_kind, p_content, p_key, p_size, p_once, p_priority, p_user)
    ON CONFLICT DO NOTHING RETURNING id INTO v_id;
    INSERT INTO job_item (job, number, content) SELECT v_id, n, c FROM unnest(p_items) WITH ORDINALITY AS i (c, n) WHERE v_id IS NOT NULL;
    RETURN v_id;
END
$$;

-- job_end: the job is over, its object is not needed any more, and the file that it leaves takes over its intent.
-- 'lost': another worker has it; 'late': the intent was swept, nothing changed. p_worker NULL: nobody has begun.
DROP FUNCTION IF EXISTS job_end(uuid, uuid, text, jsonb, text, text, bigint, interval);
CREATE OR REPLACE FUNCTION job_end(
    p_id uuid, p_worker uuid, p_state text, p_result jsonb, p_error text, p_kind text, p_file text, p_size bigint, p_grace interval
) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_key text;
BEGIN
    SELECT object_key INTO v_key FROM job
    WHERE id = p_id AND (worker = p_worker AND state = 'running' OR p_worker IS NULL AND state IN ('pending', 'retry', 'paused')) FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'lost';
    END IF;
    IF p_file IS NOT NULL THEN
        DELETE FROM intent WHERE key = p_file AND claimed_at IS NULL;
        IF NOT FOUND THEN
            RETURN 'late';
        END IF;
    END IF;
    UPDATE job SET state = p_state, result = p_result, error = p_error, error_kind = p_kind, finished_at = now(), worker = NULL, heartbeat_at = NULL, object_key = NULL,
        content = CASE WHEN p_state = 'success' THEN content - '{key,headers,sealed}'::text[] ELSE content END, -- the key of pseudonyms would trace them back, headers may log in
        result_key = p_file, result_size = p_size, progress = CASE WHEN p_state = 'success' THEN 1 ELSE progress END
    WHERE id = p_id;
    IF v_key IS NOT NULL THEN
        INSERT INTO tomb (key, not_before) VALUES (v_key, now() + p_grace) ON CONFLICT DO NOTHING;
    END IF;
    RETURN 'ended';
END
$$;

-- job_drop_results: files that jobs left and that are beyond p_bytes, counted from the youngest; how many. Their objects go after the grace.
CREATE OR REPLACE FUNCTION job_drop_results(p_bytes bigint, p_grace interval) RETURNS bigint
LANGUAGE sql AS $$
    WITH kept AS (
        SELECT id, sum(result_size) OVER (ORDER BY finished_at DESC, id) AS bytes FROM job WHERE result_key IS NOT NULL
    ), chosen AS (
        SELECT id, result_key FROM job WHERE id IN (SELECT id FROM kept WHERE bytes > p_bytes) FOR UPDATE SKIP LOCKED
    ), dropped AS (
        UPDATE job SET result_key = NULL FROM chosen WHERE job.id = chosen.id RETURNING chosen.result_key
    ), buried AS (
        INSERT INTO tomb (key, not_before) SELECT result_key, now() + p_grace FROM dropped ON CONFLICT DO NOTHING
    )
    SELECT count(*) FROM dropped
$$;

-- job_expire: finished jobs older than p_keep, and what they left; how many. Jobs that are asked for once stay: the row is what tells that they were.
CREATE OR REPLACE FUNCTION job_expire(p_keep interval, p_grace interval, p_limit integer) RETURNS bigint
LANGUAGE sql AS $$
    WITH chosen AS (
        SELECT id FROM job WHERE once IS NULL AND finished_at < now() - p_keep ORDER BY finished_at LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM job USING chosen WHERE job.id = chosen.id RETURNING job.result_key
    ), buried AS (
        INSERT INTO tomb (key, not_before) SELECT result_key, now() + p_grace FROM gone WHERE result_key IS NOT NULL ON CONFLICT DO NOTHING
    )
    SELECT count(*) FROM gone
$$;

-- job_resubmit: a job that failed waits again, with what of it was not done well; whether there was one. One whose upload is gone cannot be.
CREATE OR REPLACE FUNCTION job_resubmit(p_tenant integer, p_id uuid) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE job SET state = 'pending', attempts = 0, error = NULL, error_kind = NULL, finished_at = NULL, started_at = NULL, progress = 0,
        cancel_requested = false, pause_requested = false, run_after = now(),
        content = content || '{"resumed": true}' -- what was done of a part may be there
    WHERE tenant = p_tenant AND id = p_id AND state = 'failure' AND object_size IS NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE job_item SET status = NULL, comment = '' WHERE job = p_id AND status <> 0;
    RETURN true;
END
$$;

-- job_delete: a job that is over is forgotten, and what it left goes after the grace; whether there was one.
CREATE OR REPLACE FUNCTION job_delete(p_tenant integer, p_id uuid, p_grace interval) RETURNS boolean
LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM job WHERE tenant = p_tenant AND id = p_id AND state IN ('success', 'failure') RETURNING result_key
    ), buried AS (
        INSERT INTO tomb (key, not_before) SELECT result_key, now() + p_grace FROM gone WHERE result_key IS NOT NULL ON CONFLICT DO NOTHING
    )
    SELECT EXISTS (SELECT FROM gone)
$$;
