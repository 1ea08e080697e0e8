-- sweep_claim: intents whose lease ended. From here on no commit can use the key; the object is deleted after the quarantine.
CREATE OR REPLACE FUNCTION sweep_claim(p_limit integer) RETURNS bigint
LANGUAGE sql AS $$
    WITH claimed AS (
        UPDATE intent SET claimed_at = now() WHERE key IN (
            SELECT key FROM intent WHERE claimed_at IS NULL AND lease_until < now() ORDER BY lease_until LIMIT p_limit FOR UPDATE SKIP LOCKED)
        RETURNING 1)
    SELECT count(*) FROM claimed
$$;

-- number_changes: gives the public, gap-free number to changes that no transaction still open can precede. One sequencer at a time.
-- A row that is visible has a transaction below the snapshot's xmax, unless it was restored from another cluster's dump: then it is old.
CREATE OR REPLACE FUNCTION number_changes(p_limit integer) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_count bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('anor.number_changes')) THEN
        RETURN 0;
    END IF;
    WITH due AS (
        SELECT id, row_number() OVER (ORDER BY xid, id) + (SELECT coalesce(max(seq), 0) FROM change) AS seq
        FROM (SELECT id, xid FROM change WHERE seq IS NULL
                AND (xid < pg_snapshot_xmin(pg_current_snapshot()) OR xid >= pg_snapshot_xmax(pg_current_snapshot())) ORDER BY xid, id LIMIT p_limit) d
    ), numbered AS (UPDATE change SET seq = due.seq FROM due WHERE change.id = due.id RETURNING 1)
    SELECT count(*) INTO v_count FROM numbered;
    RETURN v_count;
END
$$;
