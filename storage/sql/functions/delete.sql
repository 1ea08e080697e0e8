-- delete_resources: removes instances (of a study, of one of its series, or one) and the parents that become empty, entombs their objects
-- and feeds the changes, in one transaction. Returns the number of instances. Lock order as in ingest_commit: patient, study, series, instance.
CREATE OR REPLACE FUNCTION delete_resources(p_tenant integer, p_grace interval, p_study text, p_series text, p_sop text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_study record;
    v_patient record;
    v_count bigint;
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
    SELECT count(*) INTO v_count FROM gone;
    IF v_count = 0 THEN
        RETURN 0;
    END IF;

    UPDATE derived d SET due = now(), tries = 0 FROM series s
    WHERE s.study = v_study.id AND (p_series IS NULL OR s.series_uid = p_series) AND d.tenant = p_tenant AND d.series_uid = s.series_uid;
    WITH gone AS (DELETE FROM series WHERE study = v_study.id AND instance_count = 0 RETURNING orthanc_id, series_uid
    ), underived AS (
        DELETE FROM derived d USING gone g WHERE d.tenant = p_tenant AND d.series_uid = g.series_uid RETURNING d.object_key
    ), entombed AS (
        INSERT INTO tomb (key, not_before) SELECT object_key, now() + p_grace FROM underived WHERE object_key IS NOT NULL ON CONFLICT DO NOTHING
    )
    INSERT INTO change (tenant, kind, level, orthanc_id, uid) SELECT p_tenant, 'Deleted', 'series', orthanc_id, series_uid FROM gone;

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
        UPDATE patient SET study_count = study_count - 1, changed_at = now() WHERE id = v_patient.id;
        DELETE FROM patient WHERE id = v_patient.id AND study_count = 0;
        IF FOUND THEN
            INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'Deleted', 'patient', v_patient.orthanc_id, v_patient.patient_id);
        END IF;
    END IF;
    RETURN v_count;
END
$$;
