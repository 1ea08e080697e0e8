-- delete_resources: removes instances (of a study, of one of its series, or one) and the parents that become empty, entombs their objects
-- and feeds the changes, in one transaction; what was attached to them goes, too. Returns the number of instances. Lock order as in ingest_commit: patient, study, series, instance.
CREATE OR REPLACE FUNCTION delete_resources(p_tenant integer, p_grace interval, p_study text, p_series text, p_sop text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_study record;
    v_patient record;
    v_count bigint;
    v_gone bytea[];
BEGIN
    SELECT p.id, p.orthanc_id, p.patient_id INTO v_patient FROM patient p
    WHERE p.id = (SELECT patient FROM study WHERE tenant = p_tenant AND study_uid = p_study) FOR UPDATE;
    SELECT id, orthanc_id, study_uid INTO v_study FROM study WHERE tenant = p_tenant AND study_uid = p_study FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;

    WITH gone AS (
        DELETE FROM instance i USING series s
        WHERE s.study = v_study.id AND i.series = s.id AND i.tenant = p_tenant
          AND (p_series IS NULL OR s.series_uid = p_series) AND (p_sop IS NULL OR i.sop_uid = p_sop)
        RETURNING i.series, i.sop_uid, i.orthanc_id, i.object_key, i.object_size
    ), entombed AS (
        INSERT INTO tomb (key, not_before) SELECT object_key, now() + p_grace FROM gone ON CONFLICT DO NOTHING
    ), undescribed AS (
        DELETE FROM tiled d USING gone g WHERE d.tenant = p_tenant AND d.sop_uid = g.sop_uid
    ), fed AS (
        INSERT INTO change (tenant, kind, level, orthanc_id, uid) SELECT p_tenant, 'Deleted', 'instance', orthanc_id, sop_uid FROM gone
    ), shrunk AS (
        UPDATE series SET instance_count = instance_count - g.n, bytes = bytes - g.size, version = nextval('version'), changed_at = now()
        FROM (SELECT series, count(*) AS n, sum(object_size) AS size FROM gone GROUP BY series) g
        WHERE series.id = g.series
    )
    SELECT count(*), array_agg(orthanc_id) INTO v_count, v_gone FROM gone;
    IF v_count = 0 THEN
        RETURN 0;
    END IF;
    PERFORM resources_forget(p_tenant, p_grace, 'instance', v_gone);

    UPDATE derived d SET due = now(), tries = 0 FROM series s
    WHERE s.study = v_study.id AND (p_series IS NULL OR s.series_uid = p_series) AND d.tenant = p_tenant AND d.series_uid = s.series_uid;
    WITH gone AS (DELETE FROM series WHERE study = v_study.id AND instance_count = 0 RETURNING orthanc_id, series_uid
    ), underived AS (
        DELETE FROM derived d USING gone g WHERE d.tenant = p_tenant AND d.series_uid = g.series_uid RETURNING d.object_key
    ), entombed AS (
        INSERT INTO tomb (key, not_before) SELECT object_key, now() + p_grace FROM underived WHERE object_key IS NOT NULL ON CONFLICT DO NOTHING
    ), fed AS (
        INSERT INTO change (tenant, kind, level, orthanc_id, uid) SELECT p_tenant, 'Deleted', 'series', orthanc_id, series_uid FROM gone
    )
    SELECT array_agg(orthanc_id) INTO v_gone FROM gone;
    IF v_gone IS NOT NULL THEN
        PERFORM resources_forget(p_tenant, p_grace, 'series', v_gone);
    END IF;

    UPDATE study t SET version = nextval('version'), changed_at = now(), series_count = c.series, instance_count = c.instances, bytes = c.bytes,
        modalities = c.modalities,
        sop_classes = ARRAY(SELECT DISTINCT i.sop_class FROM instance i JOIN series s ON s.id = i.series WHERE s.study = v_study.id ORDER BY 1)
    FROM (SELECT count(*) AS series, coalesce(sum(instance_count), 0) AS instances, coalesce(sum(bytes), 0) AS bytes,
                 coalesce(array_agg(DISTINCT modality ORDER BY modality) FILTER (WHERE modality <> ''), '{}') AS modalities
          FROM series WHERE study = v_study.id) c
    WHERE t.id = v_study.id;

    DELETE FROM study WHERE id = v_study.id AND series_count = 0;
    IF FOUND THEN
        INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'Deleted', 'study', v_study.orthanc_id, v_study.study_uid);
        PERFORM resources_forget(p_tenant, p_grace, 'study', ARRAY[v_study.orthanc_id]);
        UPDATE patient SET study_count = study_count - 1, changed_at = now() WHERE id = v_patient.id;
        DELETE FROM patient WHERE id = v_patient.id AND study_count = 0;
        IF FOUND THEN
            INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'Deleted', 'patient', v_patient.orthanc_id, v_patient.patient_id);
            IF NOT resource_exists(p_tenant, 'patient', v_patient.orthanc_id) THEN
                PERFORM resources_forget(p_tenant, p_grace, 'patient', ARRAY[v_patient.orthanc_id]);
            END IF;
        END IF;
    END IF;
    RETURN v_count;
END
$$;

-- delete_orthanc: the same by Orthanc identifier at any level. Returns the nearest ancestor that remains, `level` NULL where none does; no row when
-- there is no such resource.
CREATE OR REPLACE FUNCTION delete_orthanc(p_tenant integer, p_grace interval, p_level text, p_id bytea) RETURNS TABLE (level text, orthanc_id bytea)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_item record;
    v_count bigint := 0;
BEGIN
    FOR v_item IN
        SELECT t.study_uid, NULL AS series_uid, NULL AS sop_uid, NULL::bytea AS patient, NULL::bytea AS study, NULL::bytea AS series, t.id
        FROM patient p JOIN study t ON t.patient = p.id WHERE p_level = 'patient' AND p.orthanc_id = p_id AND p.tenant = p_tenant
        UNION ALL
        SELECT t.study_uid, NULL, NULL, p.orthanc_id, NULL, NULL, t.id
        FROM study t JOIN patient p ON p.id = t.patient WHERE p_level = 'study' AND t.orthanc_id = p_id AND t.tenant = p_tenant
        UNION ALL
        SELECT t.study_uid, s.series_uid, NULL, p.orthanc_id, t.orthanc_id, NULL, t.id
        FROM series s JOIN study t ON t.id = s.study JOIN patient p ON p.id = t.patient WHERE p_level = 'series' AND s.orthanc_id = p_id AND s.tenant = p_tenant
        UNION ALL
        SELECT t.study_uid, s.series_uid, i.sop_uid, p.orthanc_id, t.orthanc_id, s.orthanc_id, t.id
        FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study JOIN patient p ON p.id = t.patient
        WHERE p_level = 'instance' AND i.orthanc_id = p_id AND i.tenant = p_tenant
        ORDER BY 7
    LOOP
        v_count := v_count + delete_resources(p_tenant, p_grace, v_item.study_uid, v_item.series_uid, v_item.sop_uid);
    END LOOP;
    IF v_count > 0 THEN
        RETURN QUERY SELECT a.level, a.id FROM (SELECT 1) one LEFT JOIN (
            VALUES (1, 'series', v_item.series), (2, 'study', v_item.study), (3, 'patient', v_item.patient)
        ) AS a(n, level, id) ON a.id IS NOT NULL AND resource_exists(p_tenant, a.level, a.id)
        ORDER BY a.n LIMIT 1;
    END IF;
END
$$;

-- delete_all: resources of any level by Orthanc identifier, in one transaction; identifiers that nobody has are passed over. How many there were.
CREATE OR REPLACE FUNCTION delete_all(p_tenant integer, p_grace interval, p_levels text[], p_ids bytea[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_item record;
    v_count bigint := 0;
BEGIN
    FOR v_item IN
        SELECT l.level, u.id FROM unnest(p_ids, p_levels) AS u(id, level)
        JOIN unnest('{patient,study,series,instance}'::text[]) WITH ORDINALITY AS l(level, n) ON u.level IS NULL OR l.level = u.level
        ORDER BY l.n, u.id
    LOOP
        PERFORM FROM delete_orthanc(p_tenant, p_grace, v_item.level, v_item.id);
        v_count := v_count + FOUND::integer;
    END LOOP;
    RETURN v_count;
END
$$;

-- recycle: deletes a patient that is not protected, nor was meanwhile; whether it did.
CREATE OR REPLACE FUNCTION recycle(p_tenant integer, p_grace interval, p_id bytea) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM patient WHERE orthanc_id = p_id AND tenant = p_tenant ORDER BY id FOR UPDATE;
    IF EXISTS (SELECT FROM patient WHERE orthanc_id = p_id AND tenant = p_tenant AND protected) THEN
        RETURN false;
    END IF;
    PERFORM FROM delete_orthanc(p_tenant, p_grace, 'patient', p_id);
    RETURN FOUND;
END
$$;
