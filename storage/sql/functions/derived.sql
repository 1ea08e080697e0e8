-- derive: what a worker made of a slide, or NULLs where there is nothing to be made. The object that was there is entombed. The series gets a new
-- version, so that nobody goes on with levels that were numbered without the new ones. False, and nothing written, when the intent was swept, the
-- series is gone, or another worker has taken over. Lock order: intent, series, derived (as in delete_resources).
CREATE OR REPLACE FUNCTION derive(
    p_tenant integer, p_series text, p_worker uuid, p_due timestamptz, p_grace interval, p_fingerprint bytea, p_key text, p_size bigint, p_table bytea
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_old text;
BEGIN
    IF p_key IS NOT NULL THEN
        PERFORM FROM intent WHERE key = p_key AND claimed_at IS NULL FOR UPDATE;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
    END IF;
    PERFORM FROM series WHERE tenant = p_tenant AND series_uid = p_series FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        DELETE FROM derived WHERE tenant = p_tenant AND series_uid = p_series RETURNING object_key INTO v_old;
        INSERT INTO tomb (key, not_before) SELECT v_old, now() + p_grace WHERE v_old IS NOT NULL ON CONFLICT DO NOTHING;
        RETURN false;
    END IF;
    SELECT object_key INTO v_old FROM derived WHERE tenant = p_tenant AND series_uid = p_series AND worker = p_worker FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE derived SET due = nullif(due, p_due), worker = NULL, lease_until = '-infinity', tries = 0, fingerprint = p_fingerprint,
        object_key = p_key, object_size = p_size, frame_table = p_table
    WHERE tenant = p_tenant AND series_uid = p_series;
    INSERT INTO tomb (key, not_before) SELECT v_old, now() + p_grace WHERE v_old IS NOT NULL ON CONFLICT DO NOTHING;
    DELETE FROM intent WHERE key = p_key;
    IF p_key IS NOT NULL OR v_old IS NOT NULL THEN
        UPDATE series SET version = nextval('version') WHERE tenant = p_tenant AND series_uid = p_series;
    END IF;
    RETURN true;
END
$$;
