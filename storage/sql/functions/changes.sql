-- number_changes: gives the public, gap-free number to changes that no transaction still open can precede. One sequencer at a time.
-- A row that is visible has a transaction below the snapshot's xmax, unless it was restored from another cluster's dump: then it is old.
CREATE OR REPLACE FUNCTION number_changes(p_limit integer) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_count bigint;
    v_last bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('anor.number_changes')) THEN
        RETURN 0;
    END IF;
    WITH due AS (
        SELECT id, row_number() OVER (ORDER BY xid, id) + (SELECT last FROM change_counter) AS seq
        FROM (SELECT id, xid FROM change WHERE seq IS NULL
                AND (xid < pg_snapshot_xmin(pg_current_snapshot()) OR xid >= pg_snapshot_xmax(pg_current_snapshot())) ORDER BY xid, id LIMIT p_limit) d
    ), numbered AS (UPDATE change SET seq = due.seq FROM due WHERE change.id = due.id RETURNING change.seq)
    SELECT count(*), max(seq) INTO v_count, v_last FROM numbered;
    -- Not by their count: of rows that are deleted at this very moment the numbers are passed over.
    UPDATE change_counter SET last = v_last WHERE v_count > 0;
    RETURN v_count;
END
$$;

-- changes_page: entries behind p_since, up to p_to, in the order of the feed. What was just written is numbered first, so that who stores something
-- and then asks finds it. `last`: the youngest number that was given; every row has it, and a row without `seq` is there for it alone.
CREATE OR REPLACE FUNCTION changes_page(p_tenant integer, p_since bigint, p_to bigint, p_kinds text[], p_backwards boolean, p_limit integer)
RETURNS TABLE (last bigint, seq bigint, kind text, level text, orthanc_id bytea, at timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_cleared bigint;
    v_last bigint;
BEGIN
    IF EXISTS (SELECT FROM change WHERE seq IS NULL) THEN
        PERFORM number_changes(1000);
    END IF;
    SELECT c.last INTO v_last FROM change_counter c;
    SELECT greatest(coalesce(c.seq, 0), p_since) INTO v_cleared FROM (SELECT 1) one LEFT JOIN change_cleared c ON c.tenant = p_tenant;
    IF p_backwards THEN
        RETURN QUERY SELECT v_last, p.* FROM (SELECT 1) one LEFT JOIN (
            SELECT c.seq, c.kind, c.level, c.orthanc_id, c.at FROM change c
            WHERE c.tenant = p_tenant AND c.seq > v_cleared AND c.seq <= p_to AND c.kind NOT IN ('Deleted', 'UpdatedInstance')
              AND (p_kinds IS NULL OR c.kind = ANY (p_kinds)) ORDER BY c.seq DESC LIMIT p_limit) p ON true ORDER BY p.seq;
    ELSE
        RETURN QUERY SELECT v_last, p.* FROM (SELECT 1) one LEFT JOIN (
            SELECT c.seq, c.kind, c.level, c.orthanc_id, c.at FROM change c
            WHERE c.tenant = p_tenant AND c.seq > v_cleared AND c.seq <= p_to AND c.kind NOT IN ('Deleted', 'UpdatedInstance')
              AND (p_kinds IS NULL OR c.kind = ANY (p_kinds)) ORDER BY c.seq LIMIT p_limit) p ON true ORDER BY p.seq;
    END IF;
END
$$;

-- changes_forget: entries that a client had cleared, and deletions older than p_keep, where all readers have passed; how many.
CREATE OR REPLACE FUNCTION changes_forget(p_keep interval, p_limit integer) RETURNS bigint
LANGUAGE sql AS $$
    WITH passed AS (
        SELECT coalesce(min(seq), (SELECT last FROM change_counter)) AS seq FROM reader
    ), chosen AS (
        (SELECT c.id FROM change_cleared e JOIN change c ON c.tenant = e.tenant AND c.seq <= e.seq, passed WHERE c.seq <= passed.seq LIMIT p_limit)
        UNION ALL
        (SELECT c.id FROM change c, passed WHERE c.kind = 'Deleted' AND c.at < now() - p_keep AND c.seq <= passed.seq ORDER BY c.at LIMIT p_limit)
    ), gone AS (DELETE FROM change USING chosen WHERE change.id = chosen.id RETURNING 1)
    SELECT count(*) FROM gone
$$;

-- series_status: whether the instances of a series are those that its first one announces: numbered from 1, each once.
CREATE OR REPLACE FUNCTION series_status(s series) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN s.expected_count IS NULL THEN 'Unknown' ELSE (
        SELECT CASE WHEN count(*) <> count(DISTINCT i.instance_number) OR bool_or(i.instance_number NOT BETWEEN 1 AND s.expected_count) THEN 'Inconsistent'
                    WHEN count(*) = s.expected_count THEN 'Complete' ELSE 'Missing' END
        FROM instance i WHERE i.series = s.id) END
$$;

-- patient_unsettled: a study of the patient is not stable any more. Held until the commit, so that the worker does not announce the patient meanwhile.
CREATE OR REPLACE FUNCTION patient_unsettled(p_patient bigint) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO unsettled (patient) VALUES (p_patient) ON CONFLICT (patient) DO UPDATE SET since = now()
$$;

-- settle: resources to which nothing came for p_age become stable, and are announced; how many. One call for each level, in its order: what is above
-- settles after what is below. A patient settles when its last study has.
CREATE OR REPLACE FUNCTION settle(p_level text, p_age interval, p_limit integer) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_count bigint;
BEGIN
    CASE p_level
    WHEN 'series' THEN
        WITH due AS (
            SELECT id FROM series WHERE NOT stable AND changed_at < now() - p_age ORDER BY id LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
        ), settled AS (
            UPDATE series s SET stable = true FROM due WHERE s.id = due.id RETURNING s.tenant, s.orthanc_id, s.series_uid
        ), fed AS (
            INSERT INTO change (tenant, kind, level, orthanc_id, uid) SELECT tenant, 'StableSeries', 'series', orthanc_id, series_uid FROM settled
        )
        SELECT count(*) INTO v_count FROM settled;
    WHEN 'study' THEN
        WITH due AS (
            SELECT id FROM study WHERE NOT stable AND changed_at < now() - p_age ORDER BY id LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
        ), settled AS (
            UPDATE study t SET stable = true FROM due WHERE t.id = due.id RETURNING t.tenant, t.orthanc_id, t.study_uid
        ), fed AS (
            INSERT INTO change (tenant, kind, level, orthanc_id, uid) SELECT tenant, 'StableStudy', 'study', orthanc_id, study_uid FROM settled
        )
        SELECT count(*) INTO v_count FROM settled;
    WHEN 'patient' THEN
        -- `since` is looked at again when a commit held the row: then the patient waits for its study.
        WITH due AS (
            SELECT patient FROM unsettled u
            WHERE since < now() - p_age AND NOT EXISTS (SELECT FROM study t WHERE t.patient = u.patient AND NOT t.stable)
            ORDER BY patient LIMIT p_limit FOR UPDATE SKIP LOCKED
        ), settled AS (
            DELETE FROM unsettled u USING due WHERE u.patient = due.patient RETURNING u.patient
        ), fed AS (
            INSERT INTO change (tenant, kind, level, orthanc_id, uid)
            SELECT p.tenant, 'StablePatient', 'patient', p.orthanc_id, p.patient_id FROM settled JOIN patient p ON p.id = settled.patient
        )
        SELECT count(*) INTO v_count FROM settled;
    END CASE;
    RETURN v_count;
END
$$;

-- export_log: what was sent to a modality or peer, numbered without gaps.
CREATE OR REPLACE FUNCTION export_log(p_tenant integer, p_modality text, p_level text, p_id bytea, p_patient text, p_study text, p_series text, p_sop text)
RETURNS bigint
LANGUAGE sql AS $$
    WITH next AS (
        INSERT INTO export_counter AS c (tenant, last) VALUES (p_tenant, 1) ON CONFLICT (tenant) DO UPDATE SET last = c.last + 1 RETURNING last
    )
    INSERT INTO exported (tenant, seq, level, orthanc_id, modality, patient_id, study_uid, series_uid, sop_uid)
    SELECT p_tenant, last, p_level, p_id, p_modality, p_patient, p_study, p_series, p_sop FROM next RETURNING seq
$$;
