-- transfer_create: a new transfer with its buckets and instances; NULL where what is under way would be more than p_limit bytes.
CREATE OR REPLACE FUNCTION transfer_create(
    p_id uuid, p_tenant integer, p_role text, p_compression text, p_size bigint, p_path text, p_limit bigint,
    p_sizes bigint[], p_pieces text[], p_names text[], p_md5s bytea[], p_places text[]
) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    v_id uuid;
BEGIN
    IF p_role <> 'sent' THEN
        PERFORM FROM tenant WHERE id = p_tenant FOR NO KEY UPDATE; -- one after the other
        IF p_size + (SELECT coalesce(sum(size), 0) FROM transfer WHERE role <> 'sent' AND NOT over) > p_limit THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO transfer (id, tenant, role, compression, instances, size, path)
    VALUES (coalesce(p_id, gen_random_uuid()), p_tenant, p_role, p_compression, cardinality(p_names), p_size, p_path)
    RETURNING id INTO v_id;
    INSERT INTO transfer_bucket (transfer, number, size, pieces)
    SELECT v_id, n - 1, s, p::jsonb FROM unnest(p_sizes, p_pieces) WITH ORDINALITY AS b (s, p, n);
    INSERT INTO transfer_instance (transfer, number, name, md5, places)
    SELECT v_id, n - 1, i, m, p::jsonb FROM unnest(p_names, p_md5s, p_places) WITH ORDINALITY AS f (i, m, p, n);
    RETURN v_id;
END
$$;

-- transfer_committing: whether a job stores what came, or has stored it. One that failed may be followed by another.
CREATE OR REPLACE FUNCTION transfer_committing(p_job uuid, p_over boolean) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT p_over OR EXISTS (SELECT FROM job WHERE id = p_job AND state NOT IN ('success', 'failure'))
$$;

-- transfer_put: what came for a bucket is this object, whose intent the row takes over; what it had before goes after the grace.
-- 'late': the intent was swept; 'closed': it is being stored already; 'gone': there is no such bucket.
CREATE OR REPLACE FUNCTION transfer_put(p_tenant integer, p_id uuid, p_role text, p_number integer, p_key text, p_grace interval) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_have transfer;
    v_key text;
BEGIN
    SELECT * INTO v_have FROM transfer WHERE id = p_id AND tenant = p_tenant AND role = p_role FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 'gone';
    ELSIF transfer_committing(v_have.job, v_have.over) THEN
        RETURN 'closed';
    END IF;
    SELECT key INTO v_key FROM transfer_bucket WHERE transfer = p_id AND number = p_number FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'gone';
    END IF;
    DELETE FROM intent WHERE key = p_key AND claimed_at IS NULL;
    IF NOT FOUND THEN
        RETURN 'late';
    END IF;
    UPDATE transfer_bucket SET key = p_key, done = true WHERE transfer = p_id AND number = p_number;
    UPDATE transfer SET touched_at = now() WHERE id = p_id;
    IF v_key IS NOT NULL THEN
        INSERT INTO tomb (key, not_before) VALUES (v_key, now() + p_grace) ON CONFLICT DO NOTHING;
    END IF;
    RETURN 'put';
END
$$;

-- transfer_commit: the job that stores what a peer has pushed, made where there is none; `missing`: a bucket that has not come. No row: no such transfer.
CREATE OR REPLACE FUNCTION transfer_commit(p_tenant integer, p_id uuid, p_kind text, p_content jsonb, OUT job uuid, OUT missing integer)
RETURNS SETOF record
LANGUAGE plpgsql AS $$
DECLARE
    v_have transfer;
BEGIN
    SELECT * INTO v_have FROM transfer WHERE id = p_id AND tenant = p_tenant AND role = 'received' FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    job := v_have.job;
    IF NOT transfer_committing(v_have.job, v_have.over) THEN
        SELECT min(number) INTO missing FROM transfer_bucket WHERE transfer = p_id AND NOT done;
        IF missing IS NULL THEN
            job := job_create(p_tenant, p_kind, p_content, NULL, NULL, NULL, 0, NULL, '{}');
            UPDATE transfer SET job = transfer_commit.job, touched_at = now() WHERE id = p_id;
        END IF;
    ELSIF v_have.over THEN
        job := NULL; -- it is done, whatever became of the job since
    END IF;
    RETURN NEXT;
END
$$;

-- transfer_empty: what came for transfers is not needed any more, and goes after the grace.
CREATE OR REPLACE FUNCTION transfer_empty(p_ids uuid[], p_grace interval) RETURNS void
LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM transfer_bucket WHERE transfer = ANY (p_ids) RETURNING key)
    INSERT INTO tomb (key, not_before) SELECT key, now() + p_grace FROM gone WHERE key IS NOT NULL ON CONFLICT DO NOTHING;
    DELETE FROM transfer_instance WHERE transfer = ANY (p_ids);
$$;

-- transfer_drop: a transfer is forgotten; 'closed' where it is being stored, 'gone' where there was none.
CREATE OR REPLACE FUNCTION transfer_drop(p_tenant integer, p_id uuid, p_role text, p_grace interval) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_have transfer;
BEGIN
    SELECT * INTO v_have FROM transfer WHERE id = p_id AND tenant = p_tenant AND role = p_role FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'gone';
    ELSIF NOT v_have.over AND transfer_committing(v_have.job, false) THEN
        RETURN 'closed';
    END IF;
    PERFORM transfer_empty(ARRAY[p_id], p_grace);
    DELETE FROM transfer WHERE id = p_id;
    RETURN 'dropped';
END
$$;

-- transfer_expire: transfers that nobody has gone on with for p_idle, and that no job waits for, are forgotten; how many.
CREATE OR REPLACE FUNCTION transfer_expire(p_idle interval, p_grace interval, p_limit integer) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_ids uuid[];
BEGIN
    SELECT array_agg(id) INTO v_ids FROM (
        SELECT id FROM transfer t
        WHERE touched_at < now() - p_idle AND NOT EXISTS (SELECT FROM job j WHERE j.id IN (t.id, t.job) AND j.finished_at IS NULL)
        ORDER BY touched_at LIMIT p_limit FOR UPDATE SKIP LOCKED) due;
    PERFORM transfer_empty(v_ids, p_grace);
    DELETE FROM transfer WHERE id = ANY (v_ids);
    RETURN coalesce(cardinality(v_ids), 0);
END
$$;
