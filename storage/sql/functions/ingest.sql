-- ingest_intent: one round trip before the PUTs of a batch. Announces the keys of what is new, and tells which files are stored already.
-- A lease is a second longer for each megabyte: as long as a slow store takes for a large object.
-- In plpgsql, because a function in SQL is planned again at every call, which costs more than all the rest.
CREATE OR REPLACE FUNCTION ingest_intent(
    p_tenant integer, p_lease interval, p_keys text[], p_sop_uids text[], p_shas bytea[], p_sizes bigint[]
) RETURNS TABLE (ordinal bigint, stored_key text)
LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH known AS MATERIALIZED (
        SELECT u.ordinal, u.key, u.size, (
            SELECT i.object_key FROM instance i WHERE i.tenant = p_tenant AND i.sop_uid = u.sop_uid AND u.sha IN (i.file_sha256, i.received_sha256)) AS object_key
        FROM unnest(p_keys, p_sop_uids, p_shas, p_sizes) WITH ORDINALITY AS u(key, sop_uid, sha, size, ordinal)
    ), announced AS (
        INSERT INTO intent (key, tenant, size, lease_until)
        SELECT known.key, p_tenant, known.size, now() + p_lease + known.size * interval '1 microsecond' FROM known WHERE known.object_key IS NULL
    )
    SELECT known.ordinal, known.object_key FROM known;
END
$$;

-- ingest_renounce: objects that are not going to be used; the sweeper removes what may have been written.
CREATE OR REPLACE FUNCTION ingest_renounce(p_keys text[], p_grace interval) RETURNS void
LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM intent WHERE key = ANY (p_keys) AND claimed_at IS NULL RETURNING key)
    INSERT INTO tomb (key, not_before) SELECT key, now() + p_grace FROM gone ON CONFLICT DO NOTHING
$$;

-- received_of: when an instance came: now, unless it came from another archive, which says when it came there (`Provenance.received`). What the
-- sender says is escaped in the text, so that nobody else can write that name.
CREATE OR REPLACE FUNCTION received_of(p_source text) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p_source LIKE '%"received":%' THEN (p_source::json->>'received')::timestamptz ELSE now() END
$$;

-- ingest_patient: the patient of a study, held; `fresh` where it was made.
CREATE OR REPLACE FUNCTION ingest_patient(p_tenant integer, s jsonb, OUT patient bigint, OUT fresh boolean)
LANGUAGE plpgsql AS $$
BEGIN
    fresh := false;
    LOOP
        SELECT id INTO patient FROM patient
        WHERE tenant = p_tenant AND patient_id = s->>'patient_id' AND issuer = s->>'issuer' FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO patient (tenant, patient_id, issuer, orthanc_id, name_fold, birth_date, attributes)
        VALUES (p_tenant, s->>'patient_id', s->>'issuer', decode(s->>'patient_orthanc', 'hex'), s->>'name_fold', s->>'birth_date', s->'patient_attributes')
        ON CONFLICT DO NOTHING RETURNING id INTO patient;
        fresh := FOUND;
        EXIT WHEN FOUND;
    END LOOP;
END
$$;

-- ingest_study: makes the study, and its patient, unless they exist. The patient row is locked only for a new study, so that a concurrent
-- deletion of the patient's last study either comes first or sees the new one.
CREATE OR REPLACE FUNCTION ingest_study(p_tenant integer, s jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_patient bigint;
    v_new boolean := false;
BEGIN
    PERFORM FROM study WHERE tenant = p_tenant AND study_uid = s->>'uid';
    IF FOUND THEN
        RETURN;
    END IF;
    SELECT patient, fresh INTO v_patient, v_new FROM ingest_patient(p_tenant, s);
    INSERT INTO study (tenant, patient, study_uid, orthanc_id, study_date, study_time, accession, study_id, patient_id, name_fold,
                       referring_fold, description_fold, summary, attributes, grams)
    VALUES (p_tenant, v_patient, s->>'uid', decode(s->>'orthanc', 'hex'), s->>'study_date', s->>'study_time', s->>'accession', s->>'study_id',
            s->>'patient_id', s->>'name_fold', s->>'referring_fold', s->>'description_fold',
            ARRAY(SELECT jsonb_array_elements_text(s->'summary')), s->'attributes', ARRAY(SELECT jsonb_array_elements_text(s->'grams')))
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        UPDATE patient SET study_count = study_count + 1, changed_at = now() WHERE id = v_patient;
        PERFORM patient_unsettled(v_patient);
        IF v_new THEN
            INSERT INTO change (tenant, kind, level, orthanc_id, uid)
            VALUES (p_tenant, 'NewPatient', 'patient', decode(s->>'patient_orthanc', 'hex'), s->>'patient_id');
        END IF;
        INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'NewStudy', 'study', decode(s->>'orthanc', 'hex'), s->>'uid');
    END IF;
END
$$;

-- ingest_series: makes the series unless it exists; its study exists by then.
CREATE OR REPLACE FUNCTION ingest_series(p_tenant integer, s jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_study bigint;
BEGIN
    INSERT INTO series (tenant, study, series_uid, orthanc_id, modality, series_number, summary, attributes, shared, shared_id, expected_count)
    SELECT p_tenant, t.id, s->>'uid', decode(s->>'orthanc', 'hex'), s->>'modality', (s->>'number')::bigint,
           ARRAY(SELECT jsonb_array_elements_text(s->'summary')), s->'attributes', s->>'shared', (s->>'shared_id')::uuid, (s->>'expected')::integer
    FROM study t WHERE t.tenant = p_tenant AND t.study_uid = s->>'study_uid'
    ON CONFLICT DO NOTHING RETURNING study INTO v_study;
    IF FOUND THEN
        UPDATE study SET series_count = series_count + 1,
            modalities = CASE WHEN s->>'modality' = '' OR s->>'modality' = ANY (modalities) THEN modalities
                              ELSE ARRAY(SELECT m FROM unnest(modalities || (s->>'modality')) m ORDER BY m) END
        WHERE id = v_study;
        INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'NewSeries', 'series', decode(s->>'orthanc', 'hex'), s->>'uid');
    END IF;
END
$$;

-- ingest_commit: a batch of instances whose objects are durable becomes visible, in one transaction.
-- Lock order: intent, patient, study, series, instance, each by key. Outcomes per SOP Instance UID:
--   stored, replaced   the row points at the new object
--   astray             stored, but with another PatientID than that of its study, under which it is found
--   identical, kept    the stored row stays; the new object is entombed. With the key of the stored object where the very same file is stored
--   compare            other bytes under the same SOP UID, and the digest of one of the datasets is not known: the caller computes both
--   duplicate          other bytes under the same SOP UID, refused by policy; entombed
-- The policy `restore` is for a file whose stored object was lost: it takes the place of the row that knows this file.
--   elsewhere          the SOP or Series UID is stored under another series or study; entombed
--   fenced             the sweeper took the intent (the lease ended): nothing was written
--   stale              the series row is not the one that the caller's cache describes: the caller asks again with the series' data
CREATE OR REPLACE FUNCTION ingest_commit(
    p_tenant integer, p_policy text, p_grace interval, p_studies jsonb, p_series jsonb,
    i_key text[], i_sop_uid text[], i_series_uid text[], i_study_uid text[], i_shared_id uuid[], i_patient_id text[], i_size bigint[],
    i_sop_class text[], i_transfer_syntax text[], i_instance_number bigint[], i_frames integer[], i_rows integer[], i_columns integer[],
    i_bits integer[], i_meta_size integer[], i_flags integer[], i_orthanc bytea[], i_file_sha bytea[], i_dataset_sha bytea[],
    i_source text[], i_attributes text[], i_bulk bytea[], i_frame_table bytea[], i_overflow bytea[],
    i_metadata bytea[], i_crc bigint[], i_length bigint[], i_cuts text[]
) RETURNS TABLE (sop_uid text, outcome text, stored_key text)
LANGUAGE plpgsql
-- A batch is small whatever the tables hold: every row by its unique key, even where a plan was made when the tables were still empty. To a
-- planner without statistics all series of the tenant look as few as one, hence the loop over studies and the fences (OFFSET 0).
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    v_open text[];
    v_fresh text[];
    v_astray text[];
    v_study text;
    v_stable bigint[] := '{}';
    v_full bigint[];
    v_item record;
    v_have record;
BEGIN
    SELECT coalesce(array_agg(f.key), '{}') INTO v_open FROM (
        SELECT key FROM intent WHERE key = ANY (i_key) AND claimed_at IS NULL ORDER BY key FOR UPDATE) f;

    PERFORM ingest_study(p_tenant, s) FROM jsonb_array_elements(p_studies) s;
    FOR v_study IN SELECT DISTINCT u FROM unnest(i_study_uid) u ORDER BY u LOOP
        SELECT id, stable INTO v_have FROM study WHERE tenant = p_tenant AND study_uid = v_study FOR NO KEY UPDATE;
        IF v_have.stable THEN
            v_stable := v_stable || v_have.id;
        END IF;
    END LOOP;
    PERFORM ingest_series(p_tenant, s) FROM jsonb_array_elements(p_series) s;

    WITH fresh AS (
        INSERT INTO instance (tenant, series, object_size, metadata_crc, metadata_length, metadata_cuts, instance_number, number_of_frames, rows, columns,
            bits_allocated, meta_size, flags, sop_uid, sop_class, transfer_syntax, object_key, orthanc_id, file_sha256, dataset_sha256,
            source, received_at, attributes, bulk_table, frame_table, frame_overflow, metadata)
        SELECT p_tenant, s.id, u.size, u.crc, u.length, u.cuts::integer[], u.instance_number, u.frames, u.rows, u.columns,
            u.bits, u.meta_size, u.flags | (u.patient_id <> t.patient_id)::integer, u.sop_uid, u.sop_class, u.transfer_syntax, u.key,
            u.orthanc, u.file_sha, u.dataset_sha, u.source, received_of(u.source), u.attributes::jsonb, u.bulk, u.frame_table, u.overflow, u.metadata
        FROM unnest(i_key, i_sop_uid, i_series_uid, i_study_uid, i_shared_id, i_patient_id, i_size, i_sop_class, i_transfer_syntax,
                i_instance_number, i_frames, i_rows, i_columns, i_bits, i_meta_size, i_flags, i_orthanc, i_file_sha, i_dataset_sha,
                i_source, i_attributes, i_bulk, i_frame_table, i_overflow, i_metadata, i_crc, i_length, i_cuts)
            AS u(key, sop_uid, series_uid, study_uid, shared_id, patient_id, size, sop_class, transfer_syntax, instance_number, frames, rows,
                columns, bits, meta_size, flags, orthanc, file_sha, dataset_sha, source, attributes, bulk, frame_table, overflow,
                metadata, crc, length, cuts)
        CROSS JOIN LATERAL (SELECT id, study, shared_id FROM series WHERE tenant = p_tenant AND series_uid = u.series_uid OFFSET 0) s
        CROSS JOIN LATERAL (SELECT study_uid, patient_id FROM study WHERE id = s.study OFFSET 0) t
        WHERE u.key = ANY (v_open) AND s.shared_id = u.shared_id AND t.study_uid = u.study_uid
        ORDER BY u.sop_uid
        ON CONFLICT DO NOTHING
        RETURNING sop_uid, series, object_size, sop_class, orthanc_id, object_key, flags
    ), grown_series AS (
        UPDATE series SET instance_count = instance_count + g.n, bytes = bytes + g.size, version = nextval('version'), changed_at = now(), stable = false
        FROM (SELECT series, count(*) AS n, sum(object_size) AS size, array_agg(DISTINCT sop_class) AS classes FROM fresh GROUP BY series) g
        WHERE series.id = g.series
        RETURNING series.study, g.n, g.size, g.classes, series.id, series.instance_count BETWEEN series.expected_count AND series.expected_count + g.n - 1 AS "full"
    ), grown_study AS (
        UPDATE study SET instance_count = instance_count + g.n, bytes = bytes + g.size, version = nextval('version'), changed_at = now(), stable = false,
            sop_classes = CASE WHEN sop_classes @> g.classes THEN sop_classes
                               ELSE ARRAY(SELECT DISTINCT c FROM unnest(sop_classes || g.classes) c ORDER BY c) END
        FROM (SELECT gs.study, sum(gs.n) AS n, sum(gs.size) AS size,
                     (SELECT array_agg(DISTINCT c) FROM grown_series x, unnest(x.classes) c WHERE x.study = gs.study) AS classes
              FROM grown_series gs GROUP BY gs.study) g
        WHERE study.id = g.study
    ), fed AS (
        INSERT INTO change (tenant, kind, level, orthanc_id, uid) SELECT p_tenant, 'NewInstance', 'instance', orthanc_id, sop_uid FROM fresh
    ), settled AS (
        DELETE FROM intent WHERE key IN (SELECT object_key FROM fresh)
    )
    SELECT coalesce(array_agg(sop_uid), '{}'), coalesce(array_agg(sop_uid) FILTER (WHERE flags & 1 = 1), '{}'),
        (SELECT array_agg(id) FROM grown_series WHERE "full") INTO v_fresh, v_astray, v_full FROM fresh;
    IF v_full IS NOT NULL THEN
        INSERT INTO change (tenant, kind, level, orthanc_id, uid)
        SELECT p_tenant, 'CompletedSeries', 'series', s.orthanc_id, s.series_uid FROM series s WHERE s.id = ANY (v_full) AND series_status(s) = 'Complete';
    END IF;
    IF cardinality(v_stable) > 0 THEN
        PERFORM patient_unsettled(patient) FROM study WHERE id = ANY (v_stable) AND NOT stable;
    END IF;

    RETURN QUERY SELECT f, CASE WHEN f = ANY (v_astray) THEN 'astray' ELSE 'stored' END, NULL::text FROM unnest(v_fresh) f;
    IF cardinality(v_fresh) = cardinality(i_sop_uid) THEN
        RETURN;
    END IF;

    -- What was not fresh, one by one: rare, and each case deserves its own lines.
    FOR v_item IN
        SELECT u.* FROM unnest(i_key, i_sop_uid, i_series_uid, i_study_uid, i_shared_id, i_size, i_file_sha, i_dataset_sha) WITH ORDINALITY
            AS u(key, sop_uid, series_uid, study_uid, shared_id, size, file_sha, dataset_sha, ordinal)
        WHERE u.sop_uid <> ALL (v_fresh) ORDER BY u.sop_uid
    LOOP
        sop_uid := v_item.sop_uid;
        stored_key := NULL;
        IF v_item.key <> ALL (v_open) THEN
            outcome := 'fenced';
            RETURN NEXT;
            CONTINUE;
        END IF;
        SELECT i.object_key, i.object_size, i.orthanc_id, i.series, s.series_uid, t.study_uid, t.patient_id, t.id AS study, i.dataset_sha256 IS NULL AS undigested,
               coalesce(v_item.file_sha IN (i.file_sha256, i.received_sha256), false) AS same_file,
               coalesce(v_item.dataset_sha IN (i.dataset_sha256, i.received_dataset_sha256), false) AS same_dataset INTO v_have
        FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
        WHERE i.tenant = p_tenant AND i.sop_uid = v_item.sop_uid FOR UPDATE OF i;
        IF NOT FOUND THEN
            PERFORM FROM series s JOIN study t ON t.id = s.study
            WHERE s.tenant = p_tenant AND s.series_uid = v_item.series_uid AND t.study_uid <> v_item.study_uid;
            outcome := CASE WHEN FOUND THEN 'elsewhere' ELSE 'stale' END;
        ELSIF v_have.series_uid <> v_item.series_uid OR v_have.study_uid <> v_item.study_uid THEN
            outcome := 'elsewhere';
        ELSIF v_have.same_file AND p_policy <> 'restore' THEN
            outcome := 'identical';
            stored_key := v_have.object_key;
        ELSIF NOT v_have.same_file AND (v_have.undigested OR v_item.dataset_sha IS NULL) THEN
            outcome := 'compare';
            stored_key := v_have.object_key;
        ELSIF NOT v_have.same_file AND v_have.same_dataset THEN
            outcome := 'identical';
        ELSIF p_policy = 'keep-first' THEN
            outcome := 'kept';
        ELSIF p_policy = 'replace' OR (p_policy = 'restore' AND v_have.same_file) THEN
            outcome := 'replaced';
            PERFORM FROM series WHERE id = v_have.series AND shared_id = v_item.shared_id;
            IF NOT FOUND THEN
                outcome := 'stale';
            ELSE
                INSERT INTO tomb (key, not_before) VALUES (v_have.object_key, now() + p_grace) ON CONFLICT DO NOTHING;
                UPDATE instance i SET object_size = u.size, metadata_crc = u.crc, metadata_length = u.length, metadata_cuts = u.cuts::integer[], instance_number = u.instance_number,
                    number_of_frames = u.frames, rows = u.rows, columns = u.columns, bits_allocated = u.bits, meta_size = u.meta_size,
                    flags = u.flags | (u.patient_id <> v_have.patient_id)::integer, orthanc_id = u.orthanc,
                    sop_class = u.sop_class, transfer_syntax = u.transfer_syntax, object_key = u.key, object_offset = 0, file_sha256 = u.file_sha,
                    dataset_sha256 = u.dataset_sha, received_sha256 = NULL, received_dataset_sha256 = NULL, source = u.source, attributes = u.attributes::jsonb, bulk_table = u.bulk,
                    frame_table = u.frame_table, frame_overflow = u.overflow, metadata = u.metadata, received_at = received_of(u.source), version = nextval('version')
                FROM unnest(i_key, i_size, i_patient_id, i_orthanc, i_sop_class, i_transfer_syntax, i_instance_number, i_frames, i_rows, i_columns, i_bits,
                        i_meta_size, i_flags, i_file_sha, i_dataset_sha, i_source, i_attributes, i_bulk, i_frame_table, i_overflow, i_metadata, i_crc, i_length, i_cuts)
                    AS u(key, size, patient_id, orthanc, sop_class, transfer_syntax, instance_number, frames, rows, columns, bits, meta_size, flags, file_sha,
                        dataset_sha, source, attributes, bulk, frame_table, overflow, metadata, crc, length, cuts)
                WHERE i.tenant = p_tenant AND i.sop_uid = v_item.sop_uid AND u.key = v_item.key;
                PERFORM resource_renamed(p_tenant, 'instance', v_have.orthanc_id, u.orthanc) FROM unnest(i_key, i_orthanc) AS u(key, orthanc)
                WHERE u.key = v_item.key AND u.orthanc <> v_have.orthanc_id;
                UPDATE series SET bytes = bytes + v_item.size - v_have.object_size, version = nextval('version'), changed_at = now(), stable = false
                WHERE id = v_have.series;
                UPDATE study SET bytes = bytes + v_item.size - v_have.object_size, version = nextval('version'), changed_at = now(), stable = false
                WHERE id = v_have.study;
                PERFORM patient_unsettled(patient) FROM study WHERE id = v_have.study;
                INSERT INTO change (tenant, kind, level, orthanc_id, uid)
                SELECT p_tenant, 'UpdatedInstance', 'instance', i.orthanc_id, i.sop_uid FROM instance i WHERE i.tenant = p_tenant AND i.sop_uid = v_item.sop_uid;
                DELETE FROM intent WHERE key = v_item.key;
            END IF;
        ELSE
            outcome := 'duplicate';
        END IF;
        IF outcome IN ('identical', 'kept', 'duplicate', 'elsewhere') THEN
            PERFORM ingest_renounce(ARRAY[v_item.key], p_grace);
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
