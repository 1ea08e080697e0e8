-- job_create: a new job, with the object that was put for it, whose intent it takes over. NULL: the intent was swept, or `once` was asked for before.
CREATE OR REPLACE FUNCTION job_create(p_tenant integer, p_kind text, p_content jsonb, p_key text, p_size bigint, p_once text) RETURNS uuid
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
    INSERT INTO job (tenant, kind, content, object_key, object_size, once) VALUES (p_tenant, p_kind, p_content, p_key, p_size, p_once)
    ON CONFLICT DO NOTHING RETURNING id INTO v_id;
    RETURN v_id;
END
$$;

-- job_end: the job is over, and its object is not needed any more. False where another worker has it. p_worker NULL: nobody has begun.
CREATE OR REPLACE FUNCTION job_end(p_id uuid, p_worker uuid, p_state text, p_result jsonb, p_error text, p_grace interval) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_key text;
BEGIN
    SELECT object_key INTO v_key FROM job
    WHERE id = p_id AND (worker = p_worker AND state = 'running' OR p_worker IS NULL AND state IN ('pending', 'retry')) FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE job SET state = p_state, result = p_result, error = p_error, finished_at = now(), worker = NULL, heartbeat_at = NULL, object_key = NULL,
        progress = CASE WHEN p_state = 'success' THEN 1 ELSE progress END
    WHERE id = p_id;
    IF v_key IS NOT NULL THEN
        INSERT INTO tomb (key, not_before) VALUES (v_key, now() + p_grace) ON CONFLICT DO NOTHING;
    END IF;
    RETURN true;
END
$$;
