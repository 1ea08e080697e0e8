-- resource_held: whether a resource exists; then it stays until the end of the transaction, and nobody else writes what is attached to it.
-- Patients of several issuers may share an identifier.
CREATE OR REPLACE FUNCTION resource_held(p_tenant integer, p_level text, p_id bytea) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    CASE p_level
        WHEN 'patient' THEN PERFORM FROM patient WHERE orthanc_id = p_id AND tenant = p_tenant ORDER BY id FOR NO KEY UPDATE;
        WHEN 'study' THEN PERFORM FROM study WHERE orthanc_id = p_id AND tenant = p_tenant FOR NO KEY UPDATE;
        WHEN 'series' THEN PERFORM FROM series WHERE orthanc_id = p_id AND tenant = p_tenant FOR NO KEY UPDATE;
        WHEN 'instance' THEN PERFORM FROM instance WHERE orthanc_id = p_id AND tenant = p_tenant FOR NO KEY UPDATE;
    END CASE;
    RETURN FOUND;
END
$$;

-- resource_exists: the same without a lock.
CREATE OR REPLACE FUNCTION resource_exists(p_tenant integer, p_level text, p_id bytea) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT CASE p_level
        WHEN 'patient' THEN EXISTS (SELECT FROM patient WHERE orthanc_id = p_id AND tenant = p_tenant)
        WHEN 'study' THEN EXISTS (SELECT FROM study WHERE orthanc_id = p_id AND tenant = p_tenant)
        WHEN 'series' THEN EXISTS (SELECT FROM series WHERE orthanc_id = p_id AND tenant = p_tenant)
        WHEN 'instance' THEN EXISTS (SELECT FROM instance WHERE orthanc_id = p_id AND tenant = p_tenant) END
$$;

-- resources_forget: what was attached to resources that are gone, and what the change feed said of them. A statement of its own behind their
-- deletion: only then nobody can attach anything any more.
CREATE OR REPLACE FUNCTION resources_forget(p_tenant integer, p_grace interval, p_level text, p_ids bytea[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM label WHERE tenant = p_tenant AND level = p_level AND orthanc_id = ANY (p_ids);
    DELETE FROM user_metadata WHERE tenant = p_tenant AND level = p_level AND orthanc_id = ANY (p_ids);
    WITH gone AS (DELETE FROM attachment WHERE tenant = p_tenant AND level = p_level AND orthanc_id = ANY (p_ids) RETURNING object_key)
    INSERT INTO tomb (key, not_before) SELECT object_key, now() + p_grace FROM gone ON CONFLICT DO NOTHING;
    DELETE FROM change WHERE orthanc_id = ANY (p_ids) AND tenant = p_tenant AND level = p_level AND kind <> 'Deleted';
END
$$;

-- resource_renamed: a resource has another Orthanc identifier from now on, as another PatientID gives it; what was attached to it stays with it.
-- To clients it is another resource.
CREATE OR REPLACE FUNCTION resource_renamed(p_tenant integer, p_level text, p_old bytea, p_new bytea) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE label SET orthanc_id = p_new WHERE tenant = p_tenant AND level = p_level AND orthanc_id = p_old;
    UPDATE user_metadata SET orthanc_id = p_new WHERE tenant = p_tenant AND level = p_level AND orthanc_id = p_old;
    UPDATE attachment SET orthanc_id = p_new WHERE tenant = p_tenant AND level = p_level AND orthanc_id = p_old;
    DELETE FROM change WHERE orthanc_id = p_old AND tenant = p_tenant AND level = p_level AND kind <> 'Deleted';
    INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES
        (p_tenant, 'Deleted', p_level, p_old, ''), (p_tenant, 'New' || initcap(p_level), p_level, p_new, '');
END
$$;

-- metadata_put, metadata_delete, attachment_put, attachment_delete give an outcome and the revision that is there now:
--   done
--   missing     there is no such resource, or nothing to delete
--   conflict    p_match is not the entity tag (revision-md5) of what is there, or it is NULL although p_required
--   late        the sweeper took the intent of the object
CREATE OR REPLACE FUNCTION metadata_put(p_tenant integer, p_level text, p_id bytea, p_kind integer, p_value text, p_match text, p_required boolean,
    OUT outcome text, OUT revision bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_have record;
BEGIN
    outcome := 'missing';
    IF NOT resource_held(p_tenant, p_level, p_id) THEN
        RETURN;
    END IF;
    SELECT m.revision, concat(m.revision, '-', md5(m.value)) AS tag INTO v_have FROM user_metadata m
    WHERE m.tenant = p_tenant AND m.orthanc_id = p_id AND m.level = p_level AND m.kind = p_kind;
    outcome := 'conflict';
    IF FOUND AND (p_match IS NULL AND p_required OR p_match <> v_have.tag) OR NOT FOUND AND p_match IS NOT NULL THEN
        RETURN;
    END IF;
    outcome := 'done';
    revision := coalesce(v_have.revision + 1, 0);
    INSERT INTO user_metadata (tenant, level, orthanc_id, kind, revision, value) VALUES (p_tenant, p_level, p_id, p_kind, revision, p_value)
    ON CONFLICT ON CONSTRAINT user_metadata_pkey DO UPDATE SET revision = excluded.revision, value = excluded.value;
    INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'UpdatedMetadata', p_level, p_id, '');
END
$$;

CREATE OR REPLACE FUNCTION metadata_delete(p_tenant integer, p_level text, p_id bytea, p_kind integer, p_match text, p_required boolean,
    OUT outcome text, OUT revision bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_tag text;
BEGIN
    outcome := 'missing';
    IF NOT resource_held(p_tenant, p_level, p_id) THEN
        RETURN;
    END IF;
    SELECT m.revision, concat(m.revision, '-', md5(m.value)) INTO revision, v_tag FROM user_metadata m
    WHERE m.tenant = p_tenant AND m.orthanc_id = p_id AND m.level = p_level AND m.kind = p_kind;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    outcome := 'conflict';
    IF p_match IS NULL AND p_required OR p_match <> v_tag THEN
        RETURN;
    END IF;
    outcome := 'done';
    DELETE FROM user_metadata m WHERE m.tenant = p_tenant AND m.orthanc_id = p_id AND m.level = p_level AND m.kind = p_kind;
    INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'UpdatedMetadata', p_level, p_id, '');
END
$$;

CREATE OR REPLACE FUNCTION attachment_put(p_tenant integer, p_level text, p_id bytea, p_kind integer, p_key text, p_size bigint, p_md5 bytea,
    p_match text, p_required boolean, p_grace interval, OUT outcome text, OUT revision bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_have record;
BEGIN
    outcome := 'late';
    PERFORM FROM intent WHERE key = p_key AND claimed_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    outcome := 'missing';
    IF NOT resource_held(p_tenant, p_level, p_id) THEN
        RETURN;
    END IF;
    SELECT a.revision, a.object_key, concat(a.revision, '-', encode(a.md5, 'hex')) AS tag INTO v_have FROM attachment a
    WHERE a.tenant = p_tenant AND a.orthanc_id = p_id AND a.level = p_level AND a.kind = p_kind;
    outcome := 'conflict';
    IF FOUND AND (p_match IS NULL AND p_required OR p_match <> v_have.tag) OR NOT FOUND AND p_match IS NOT NULL THEN
        RETURN;
    END IF;
    outcome := 'done';
    revision := coalesce(v_have.revision + 1, 0);
    INSERT INTO attachment (tenant, level, orthanc_id, kind, revision, object_key, object_size, md5)
    VALUES (p_tenant, p_level, p_id, p_kind, revision, p_key, p_size, p_md5)
    ON CONFLICT ON CONSTRAINT attachment_pkey DO UPDATE
        SET revision = excluded.revision, object_key = excluded.object_key, object_size = excluded.object_size, md5 = excluded.md5;
    IF v_have.object_key IS NOT NULL THEN
        INSERT INTO tomb (key, not_before) VALUES (v_have.object_key, now() + p_grace) ON CONFLICT DO NOTHING;
    END IF;
    DELETE FROM intent WHERE key = p_key;
    INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'UpdatedAttachment', p_level, p_id, '');
END
$$;

CREATE OR REPLACE FUNCTION attachment_delete(p_tenant integer, p_level text, p_id bytea, p_kind integer, p_match text, p_required boolean,
    p_grace interval, OUT outcome text, OUT revision bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_have record;
BEGIN
    outcome := 'missing';
    IF NOT resource_held(p_tenant, p_level, p_id) THEN
        RETURN;
    END IF;
    SELECT a.revision, a.object_key, concat(a.revision, '-', encode(a.md5, 'hex')) AS tag INTO v_have FROM attachment a
    WHERE a.tenant = p_tenant AND a.orthanc_id = p_id AND a.level = p_level AND a.kind = p_kind;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    revision := v_have.revision;
    outcome := 'conflict';
    IF p_match IS NULL AND p_required OR p_match <> v_have.tag THEN
        RETURN;
    END IF;
    outcome := 'done';
    DELETE FROM attachment a WHERE a.tenant = p_tenant AND a.orthanc_id = p_id AND a.level = p_level AND a.kind = p_kind;
    INSERT INTO tomb (key, not_before) VALUES (v_have.object_key, now() + p_grace) ON CONFLICT DO NOTHING;
    INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (p_tenant, 'UpdatedAttachment', p_level, p_id, '');
END
$$;

-- label_put: whether there is such a resource; it has the label then. Labels are not announced, as in Orthanc.
CREATE OR REPLACE FUNCTION label_put(p_tenant integer, p_level text, p_id bytea, p_label text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT resource_held(p_tenant, p_level, p_id) THEN
        RETURN false;
    END IF;
    INSERT INTO label (tenant, level, orthanc_id, label) VALUES (p_tenant, p_level, p_id, p_label) ON CONFLICT DO NOTHING;
    RETURN true;
END
$$;
