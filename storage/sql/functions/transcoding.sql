-- exchange_object: a row points at the same image in another transfer syntax from now on; the object that it pointed at is entombed. What the
-- sender sent stays known. False, and nothing written, when the intent was swept, or the instance is not what was read: deleted, replaced, or
-- of a series that was made anew.
CREATE OR REPLACE FUNCTION exchange_object(
    p_tenant integer, p_sop_uid text, p_stored_key text, p_received_dataset bytea, p_shared_id uuid, p_grace interval, p_key text, p_size bigint,
    p_transfer_syntax text, p_meta_size integer, p_file_sha bytea, p_dataset_sha bytea, p_attributes text, p_bulk bytea, p_frame_table bytea,
    p_overflow bytea, p_metadata bytea, p_crc bigint, p_length bigint, p_cuts text
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_have record;
BEGIN
    PERFORM FROM intent WHERE key = p_key AND claimed_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT t.id AS study, s.id AS series INTO v_have FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
    WHERE i.tenant = p_tenant AND i.sop_uid = p_sop_uid AND i.object_key = p_stored_key AND s.shared_id = p_shared_id;
    PERFORM FROM study WHERE id = v_have.study FOR NO KEY UPDATE;
    PERFORM FROM series WHERE id = v_have.series FOR NO KEY UPDATE;
    SELECT v_have.study, v_have.series, i.object_size INTO v_have
    FROM instance i WHERE i.tenant = p_tenant AND i.sop_uid = p_sop_uid AND i.object_key = p_stored_key AND i.series = v_have.series FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE instance SET object_key = p_key, object_offset = 0, object_size = p_size, transfer_syntax = p_transfer_syntax, meta_size = p_meta_size,
        flags = flags & ~2, received_sha256 = coalesce(received_sha256, file_sha256), file_sha256 = p_file_sha,
        received_dataset_sha256 = coalesce(received_dataset_sha256, p_received_dataset), dataset_sha256 = p_dataset_sha,
        attributes = p_attributes::jsonb, bulk_table = p_bulk, frame_table = p_frame_table, frame_overflow = p_overflow,
        metadata = p_metadata, metadata_crc = p_crc, metadata_length = p_length, metadata_cuts = p_cuts::integer[], version = nextval('version')
    WHERE tenant = p_tenant AND sop_uid = p_sop_uid;
    UPDATE series SET bytes = bytes + p_size - v_have.object_size, version = nextval('version'), changed_at = now() WHERE id = v_have.series;
    UPDATE study SET bytes = bytes + p_size - v_have.object_size, version = nextval('version'), changed_at = now() WHERE id = v_have.study;
    INSERT INTO tomb (key, not_before) VALUES (p_stored_key, now() + p_grace) ON CONFLICT DO NOTHING;
    DELETE FROM intent WHERE key = p_key;
    RETURN true;
END
$$;
