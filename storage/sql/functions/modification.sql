-- modification_end: what a modification has stored is complete. Its parts are SOP Instance UIDs, the comment of one that is done is the Orthanc
-- identifier of what it became. Notes where each new resource of p_levels comes from (p_kind: number of the metadata), gives it the labels of its
-- source (p_labels), announces it (p_what: Modified, Anonymized), and removes the sources (p_remove): all in one transaction. What is already
-- removed, and what took the place of its source, is passed over. How many instances were removed.
CREATE OR REPLACE FUNCTION modification_end(
    p_tenant integer, p_job uuid, p_kind integer, p_what text, p_levels text[], p_labels boolean, p_remove boolean, p_grace interval
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_studies bigint[];
    v_study record;
    v_series record;
    v_count bigint := 0;
BEGIN
    SELECT array_agg(DISTINCT s.study) INTO v_studies FROM (
        SELECT i.series FROM job_item j JOIN instance i ON i.tenant = p_tenant AND i.sop_uid = j.content WHERE j.job = p_job AND j.status = 0
        UNION SELECT i.series FROM job_item j JOIN instance i ON i.tenant = p_tenant AND i.orthanc_id = decode(j.comment, 'hex')
        WHERE j.job = p_job AND j.status = 0) both_sides
    JOIN series s ON s.id = both_sides.series;
    PERFORM FROM patient WHERE id IN (SELECT patient FROM study WHERE id = ANY (v_studies)) ORDER BY id FOR UPDATE;
    PERFORM FROM study WHERE id = ANY (v_studies) ORDER BY id FOR UPDATE;

    WITH pair AS MATERIALIZED (
        SELECT a.orthanc_id AS i, s.orthanc_id AS s, t.orthanc_id AS t, p.orthanc_id AS p,
               b.orthanc_id AS new_i, ns.orthanc_id AS new_s, nt.orthanc_id AS new_t, np.orthanc_id AS new_p
        FROM job_item j
        JOIN instance a ON a.tenant = p_tenant AND a.sop_uid = j.content
        JOIN series s ON s.id = a.series JOIN study t ON t.id = s.study JOIN patient p ON p.id = t.patient
        JOIN instance b ON b.orthanc_id = decode(j.comment, 'hex') AND b.tenant = p_tenant
        JOIN series ns ON ns.id = b.series JOIN study nt ON nt.id = ns.study JOIN patient np ON np.id = nt.patient
        WHERE j.job = p_job AND j.status = 0
    ), made AS MATERIALIZED (
        SELECT DISTINCT ON (v.level, v.new) v.level, v.old, v.new
        FROM pair, LATERAL (VALUES ('patient', p, new_p), ('study', t, new_t), ('series', s, new_s), ('instance', i, new_i)) AS v(level, old, new)
        WHERE v.old <> v.new AND v.level = ANY (p_levels) ORDER BY v.level, v.new, v.old
    ), noted AS (
        INSERT INTO user_metadata (tenant, level, orthanc_id, kind, value)
        SELECT p_tenant, level, new, p_kind, regexp_replace(encode(old, 'hex'), '(.{8})(?=.)', '\1-', 'g') FROM made
        ON CONFLICT ON CONSTRAINT user_metadata_pkey DO UPDATE SET value = excluded.value
    ), labelled AS (
        INSERT INTO label (tenant, level, orthanc_id, label)
        SELECT p_tenant, m.level, m.new, l.label FROM made m JOIN label l ON l.tenant = p_tenant AND l.level = m.level AND l.orthanc_id = m.old
        WHERE p_labels ON CONFLICT DO NOTHING
    )
    INSERT INTO change (tenant, kind, level, orthanc_id, uid) SELECT p_tenant, p_what || initcap(level), level, new, '' FROM made WHERE level <> 'instance';

    IF NOT p_remove THEN
        RETURN 0;
    END IF;
    -- Whole studies and series where nothing came to them meanwhile, else one instance after the other.
    FOR v_study IN
        SELECT t.study_uid, t.instance_count = count(*) AS whole, array_agg(s.id) AS series FROM job_item j
        JOIN instance i ON i.tenant = p_tenant AND i.sop_uid = j.content JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
        WHERE j.job = p_job AND j.status = 0 AND i.orthanc_id <> decode(j.comment, 'hex') GROUP BY t.id ORDER BY t.id
    LOOP
        IF v_study.whole THEN
            v_count := v_count + delete_resources(p_tenant, p_grace, v_study.study_uid, NULL, NULL);
            CONTINUE;
        END IF;
        FOR v_series IN
            SELECT s.series_uid, s.instance_count = count(*) AS whole, array_agg(i.sop_uid) AS sops FROM job_item j
            JOIN instance i ON i.tenant = p_tenant AND i.sop_uid = j.content JOIN series s ON s.id = i.series
            WHERE j.job = p_job AND j.status = 0 AND i.orthanc_id <> decode(j.comment, 'hex') AND s.id = ANY (v_study.series) GROUP BY s.id ORDER BY s.id
        LOOP
            IF v_series.whole THEN
                v_count := v_count + delete_resources(p_tenant, p_grace, v_study.study_uid, v_series.series_uid, NULL);
            ELSE
                SELECT v_count + sum(delete_resources(p_tenant, p_grace, v_study.study_uid, v_series.series_uid, u)) INTO v_count
                FROM unnest(v_series.sops) u;
            END IF;
        END LOOP;
    END LOOP;
    RETURN v_count;
END
$$;

-- rebased: the attributes in which an instance differs from what its series shares, when that becomes something else.
CREATE OR REPLACE FUNCTION rebased(p_differing jsonb, p_shared jsonb, p_new jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    WITH own AS (SELECT k, v FROM jsonb_each(p_shared || p_differing) AS e(k, v) WHERE v <> 'null')
    SELECT coalesce((SELECT jsonb_object_agg(k, v) FROM own WHERE p_new->k IS DISTINCT FROM v), '{}')
        || coalesce((SELECT jsonb_object_agg(k, NULL) FROM jsonb_object_keys(p_new) k WHERE k NOT IN (SELECT k FROM own)), '{}')
$$;

-- speaks: whether the file that a study or series is said anew from, which somebody has read meanwhile, is still that of its instance. Who asks
-- holds the study, without which no instance of it changes. True where no file was read (p_key is NULL).
CREATE OR REPLACE FUNCTION speaks(p_tenant integer, p_sop_uid text, p_key text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    RETURN p_key IS NULL OR EXISTS (SELECT FROM instance WHERE tenant = p_tenant AND sop_uid = p_sop_uid AND object_key = p_key);
END
$$;

-- restate_series: its instances were overwritten; the row says what one of them says now. p_quiet: it is only said anew, and nothing has changed
-- that anybody has to be told. s: as for ingest_series, read from the object p_key of the instance p_speaker, where they are given. False, and
-- nothing written, when that is not stored any more, or the series is gone.
DROP FUNCTION IF EXISTS restate_series(integer, jsonb);
DROP FUNCTION IF EXISTS restate_series(integer, boolean, jsonb);
CREATE OR REPLACE FUNCTION restate_series(p_tenant integer, p_quiet boolean, p_speaker text, p_key text, s jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_have record;
    v_new bytea := decode(s->>'orthanc', 'hex');
BEGIN
    PERFORM FROM study WHERE tenant = p_tenant AND study_uid = s->>'study_uid' FOR NO KEY UPDATE;
    SELECT id, study, orthanc_id, members_of(shared) AS shared INTO v_have FROM series WHERE tenant = p_tenant AND series_uid = s->>'uid' FOR NO KEY UPDATE;
    IF NOT FOUND OR NOT speaks(p_tenant, p_speaker, p_key) THEN
        RETURN false;
    END IF;
    UPDATE series SET orthanc_id = v_new, modality = s->>'modality', series_number = (s->>'number')::bigint,
        summary = ARRAY(SELECT jsonb_array_elements_text(s->'summary')), attributes = s->'attributes', shared = s->>'shared',
        shared_id = (s->>'shared_id')::uuid, expected_count = (s->>'expected')::integer, version = nextval('version'),
        changed_at = CASE WHEN p_quiet THEN changed_at ELSE now() END, stable = stable AND p_quiet
    WHERE id = v_have.id;
    UPDATE instance SET attributes = rebased(attributes, v_have.shared, members_of(s->>'shared')) WHERE series = v_have.id;
    UPDATE study SET version = nextval('version'), changed_at = CASE WHEN p_quiet THEN changed_at ELSE now() END, stable = stable AND p_quiet,
        modalities = ARRAY(SELECT DISTINCT modality FROM series WHERE study = v_have.study AND modality <> '' ORDER BY 1)
    WHERE id = v_have.study;
    IF v_have.orthanc_id <> v_new THEN
        PERFORM resource_renamed(p_tenant, 'series', v_have.orthanc_id, v_new);
    END IF;
    IF NOT p_quiet THEN
        PERFORM patient_unsettled(patient) FROM study WHERE id = v_have.study;
        INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'ModifiedSeries', 'series', v_new, s->>'uid');
    END IF;
    RETURN true;
END
$$;

-- restate_study: the same for a study, which may get another patient. s: as for ingest_study. With p_quiet the patient is what the oldest of its
-- studies says of it.
DROP FUNCTION IF EXISTS restate_study(integer, interval, jsonb);
DROP FUNCTION IF EXISTS restate_study(integer, interval, boolean, jsonb);
CREATE OR REPLACE FUNCTION restate_study(p_tenant integer, p_grace interval, p_quiet boolean, p_speaker text, p_key text, s jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_have record;
    v_patient record;
    v_new bytea := decode(s->>'orthanc', 'hex');
    v_person bytea := decode(s->>'patient_orthanc', 'hex');
    v_last boolean;
BEGIN
    SELECT * INTO v_patient FROM ingest_patient(p_tenant, s);
    SELECT t.id, t.orthanc_id, p.id AS patient, p.orthanc_id AS person, p.patient_id INTO v_have
    FROM study t JOIN patient p ON p.id = t.patient WHERE t.tenant = p_tenant AND t.study_uid = s->>'uid' FOR NO KEY UPDATE;
    IF NOT FOUND OR NOT speaks(p_tenant, p_speaker, p_key) THEN
        DELETE FROM patient WHERE id = v_patient.patient AND study_count = 0;
        RETURN false;
    END IF;
    UPDATE study SET patient = v_patient.patient, orthanc_id = v_new, study_date = s->>'study_date', study_time = s->>'study_time',
        accession = s->>'accession', study_id = s->>'study_id', patient_id = s->>'patient_id', name_fold = s->>'name_fold',
        referring_fold = s->>'referring_fold', description_fold = s->>'description_fold',
        summary = ARRAY(SELECT jsonb_array_elements_text(s->'summary')), attributes = s->'attributes',
        grams = ARRAY(SELECT jsonb_array_elements_text(s->'grams')), version = nextval('version'),
        changed_at = CASE WHEN p_quiet THEN changed_at ELSE now() END, stable = stable AND p_quiet
    WHERE id = v_have.id;
    IF NOT p_quiet THEN
        UPDATE instance i SET flags = i.flags & ~1 FROM series WHERE series.study = v_have.id AND i.series = series.id AND i.flags & 1 = 1;
    END IF;
    IF v_have.orthanc_id <> v_new THEN
        PERFORM resource_renamed(p_tenant, 'study', v_have.orthanc_id, v_new);
    END IF;
    IF NOT p_quiet OR NOT EXISTS (SELECT FROM study WHERE patient = v_patient.patient AND id < v_have.id) THEN
        UPDATE patient SET name_fold = s->>'name_fold', birth_date = s->>'birth_date', attributes = s->'patient_attributes' WHERE id = v_patient.patient;
    END IF;
    UPDATE patient SET changed_at = CASE WHEN p_quiet AND v_have.patient = v_patient.patient THEN changed_at ELSE now() END,
        study_count = study_count + (v_have.patient <> v_patient.patient)::integer
    WHERE id = v_patient.patient;
    IF v_have.patient <> v_patient.patient THEN
        UPDATE patient SET study_count = study_count - 1, changed_at = now() WHERE id = v_have.patient;
        DELETE FROM patient WHERE id = v_have.patient AND study_count = 0;
        v_last := FOUND AND NOT resource_exists(p_tenant, 'patient', v_have.person);
        IF v_last AND v_patient.fresh THEN
            PERFORM resource_renamed(p_tenant, 'patient', v_have.person, v_person);
        ELSIF v_last THEN
            INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'Deleted', 'patient', v_have.person, v_have.patient_id);
            PERFORM resources_forget(p_tenant, p_grace, 'patient', ARRAY[v_have.person]);
        ELSIF v_patient.fresh THEN
            INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'NewPatient', 'patient', v_person, s->>'patient_id');
        END IF;
    END IF;
    IF NOT p_quiet OR v_have.patient <> v_patient.patient THEN
        PERFORM patient_unsettled(v_patient.patient);
    END IF;
    IF NOT p_quiet THEN
        INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'ModifiedStudy', 'study', v_new, s->>'uid');
    END IF;
    RETURN true;
END
$$;
