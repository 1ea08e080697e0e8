-- restate_instance: a row says what a scan of its file says now. p_key is that of its object, or of a copy with other metadata beside it, which
-- takes its place. p_announce: readers of the change feed look at it again. The parameters behind are those of ingest_commit for one instance.
-- False, and nothing written, when the instance is not what was read: deleted, replaced, or of a series that was said anew.
CREATE OR REPLACE FUNCTION restate_instance(
    p_tenant integer, p_stored_key text, p_grace interval, p_announce boolean,
    p_key text, p_sop_uid text, p_series_uid text, p_study_uid text, p_shared_id uuid, p_patient_id text, p_size bigint,
    p_sop_class text, p_transfer_syntax text, p_instance_number bigint, p_frames integer, p_rows integer, p_columns integer,
    p_bits integer, p_meta_size integer, p_flags integer, p_orthanc bytea, p_file_sha bytea, p_dataset_sha bytea,
    p_source text, p_attributes text, p_bulk bytea, p_frame_table bytea, p_overflow bytea,
    p_metadata bytea, p_crc bigint, p_length bigint, p_cuts text
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_have record;
BEGIN
    IF p_key <> p_stored_key THEN
        PERFORM FROM intent WHERE key = p_key AND claimed_at IS NULL FOR UPDATE;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
    END IF;
    SELECT t.id AS study, s.id AS series INTO v_have FROM series s JOIN study t ON t.id = s.study
    WHERE s.tenant = p_tenant AND s.series_uid = p_series_uid AND s.shared_id = p_shared_id AND t.study_uid = p_study_uid;
    PERFORM FROM study WHERE id = v_have.study FOR NO KEY UPDATE;
    PERFORM FROM series WHERE id = v_have.series AND shared_id = p_shared_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT v_have.study, v_have.series, t.patient_id, i.orthanc_id INTO v_have FROM instance i, study t
    WHERE i.tenant = p_tenant AND i.sop_uid = p_sop_uid AND i.object_key = p_stored_key AND i.series = v_have.series AND i.file_sha256 = p_file_sha
      AND t.id = v_have.study FOR UPDATE OF i;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE instance SET object_key = p_key, object_offset = CASE WHEN p_key = p_stored_key THEN object_offset ELSE 0 END,
        metadata_crc = p_crc, metadata_length = p_length, metadata_cuts = p_cuts::integer[], instance_number = p_instance_number,
        number_of_frames = p_frames, rows = p_rows, columns = p_columns, bits_allocated = p_bits, meta_size = p_meta_size,
        flags = p_flags | (p_patient_id <> v_have.patient_id)::integer, orthanc_id = p_orthanc, sop_class = p_sop_class,
        transfer_syntax = p_transfer_syntax, attributes = p_attributes::jsonb, bulk_table = p_bulk, frame_table = p_frame_table,
        frame_overflow = p_overflow, metadata = p_metadata, version = nextval('version')
    WHERE tenant = p_tenant AND sop_uid = p_sop_uid;
    UPDATE series SET version = nextval('version') WHERE id = v_have.series;
    UPDATE study SET version = nextval('version') WHERE id = v_have.study;
    IF v_have.orthanc_id <> p_orthanc THEN
        PERFORM resource_renamed(p_tenant, 'instance', v_have.orthanc_id, p_orthanc);
    END IF;
    IF p_announce THEN
        INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'UpdatedInstance', 'instance', p_orthanc, p_sop_uid);
    END IF;
    IF p_key <> p_stored_key THEN
        INSERT INTO tomb (key, not_before) VALUES (p_stored_key, now() + p_grace) ON CONFLICT DO NOTHING;
        DELETE FROM intent WHERE key = p_key;
    END IF;
    RETURN true;
END
$$;
