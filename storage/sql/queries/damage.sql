-- Notes of damaged objects, see storage/damage.py: metadata of the kind -1, whose value is the reason, a blank and the key of the object.

-- name: damage_note
-- Note that the object $3 of instance $2, or of an attachment, is damaged for the reason $4, if the index still points at it; whether it does, and
-- whether that was not noted before.
WITH still AS (
    SELECT 'instance' AS level, orthanc_id FROM instance WHERE tenant = $1 AND sop_uid = $2 AND object_key = $3
    UNION ALL
    SELECT level, orthanc_id FROM attachment WHERE tenant = $1 AND object_key = $3
), noted AS (
    INSERT INTO user_metadata (tenant, level, orthanc_id, kind, value) SELECT $1, level, orthanc_id, -1, concat($4::text, ' ', $3::text) FROM still
    ON CONFLICT ON CONSTRAINT user_metadata_pkey DO UPDATE SET value = excluded.value WHERE user_metadata.value <> excluded.value
    RETURNING 1
)
SELECT EXISTS (SELECT FROM still) AS still, EXISTS (SELECT FROM noted) AS fresh

-- name: damage_count
-- How many notes are true: the resource still has the object.
SELECT count(*) FROM tenant JOIN user_metadata m ON m.tenant = tenant.id AND m.kind = -1
WHERE EXISTS (SELECT FROM instance i WHERE m.level = 'instance' AND i.tenant = m.tenant AND i.orthanc_id = m.orthanc_id
              AND i.object_key = split_part(m.value, ' ', 2))
   OR EXISTS (SELECT FROM attachment a WHERE a.tenant = m.tenant AND a.orthanc_id = m.orthanc_id AND a.level = m.level
              AND a.object_key = split_part(m.value, ' ', 2))

-- name: damage_noted
-- Whether the object $3 of instance $2 is noted.
SELECT EXISTS (
    SELECT FROM instance i JOIN user_metadata m ON m.tenant = i.tenant AND m.orthanc_id = i.orthanc_id AND m.level = 'instance' AND m.kind = -1
    WHERE i.tenant = $1 AND i.sop_uid = $2 AND i.object_key = $3 AND split_part(m.value, ' ', 2) = $3)

-- name: damage_page
-- True notes in the order of their resources, a page behind ($1, $2), with what their objects are to be.
SELECT m.tenant, m.level, m.orthanc_id, coalesce(i.sop_uid, encode(m.orthanc_id, 'hex')) AS sop_uid, k.key AS object_key,
       coalesce(i.object_offset, 0) AS object_offset, coalesce(i.object_size, a.object_size) AS object_size, i.file_sha256, i.metadata_crc, i.metadata_length,
       i.sop_uid IS NOT NULL AND i.metadata IS NULL AS side, a.md5
FROM tenant JOIN user_metadata m ON m.tenant = tenant.id AND m.kind = -1
CROSS JOIN LATERAL (SELECT split_part(m.value, ' ', 2) AS key) k
LEFT JOIN instance i ON m.level = 'instance' AND i.tenant = m.tenant AND i.orthanc_id = m.orthanc_id AND i.object_key = k.key
LEFT JOIN attachment a ON a.tenant = m.tenant AND a.orthanc_id = m.orthanc_id AND a.level = m.level AND a.object_key = k.key
WHERE (m.tenant, m.orthanc_id) > ($1, $2) AND (i.sop_uid IS NOT NULL OR a.md5 IS NOT NULL)
ORDER BY m.tenant, m.orthanc_id LIMIT $3

-- name: damage_forget
-- The object $4 is whole again.
DELETE FROM user_metadata WHERE tenant = $1 AND level = $2 AND orthanc_id = $3 AND kind = -1 AND split_part(value, ' ', 2) = $4

-- name: damage_forget_gone
-- Notes of objects that nothing points at any more.
DELETE FROM user_metadata m USING tenant
WHERE m.tenant = tenant.id AND m.kind = -1
  AND NOT EXISTS (SELECT FROM instance i WHERE m.level = 'instance' AND i.tenant = m.tenant AND i.orthanc_id = m.orthanc_id
                  AND i.object_key = split_part(m.value, ' ', 2))
  AND NOT EXISTS (SELECT FROM attachment a WHERE a.tenant = m.tenant AND a.orthanc_id = m.orthanc_id AND a.level = m.level
                  AND a.object_key = split_part(m.value, ' ', 2))
