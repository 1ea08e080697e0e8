-- name: resource_exists
-- Whether there is such a resource.
SELECT resource_exists($1, $2, $3)

-- name: labels_of
-- The labels of a resource; NULL when there is no such resource.
SELECT CASE WHEN resource_exists($1, $2, $3)
    THEN ARRAY(SELECT label FROM label WHERE tenant = $1 AND level = $2 AND orthanc_id = $3 ORDER BY label) END

-- name: label_put
-- See functions/resources.sql.
SELECT label_put($1, $2, $3, $4)

-- name: study_label
-- Labels for a study of which something was stored. Nothing is written where it has them, nor where it was deleted meanwhile.
INSERT INTO label (tenant, level, orthanc_id, label)
SELECT t.tenant, 'study', t.orthanc_id, l FROM study t, unnest($3::text[]) l
WHERE t.tenant = $1 AND t.study_uid = $2 AND NOT EXISTS (
    SELECT FROM label h WHERE h.tenant = t.tenant AND h.orthanc_id = t.orthanc_id AND h.level = 'study' AND h.label = l)
FOR NO KEY UPDATE OF t ON CONFLICT DO NOTHING

-- name: label_delete
-- Take a label away.
DELETE FROM label WHERE tenant = $1 AND level = $2 AND orthanc_id = $3 AND label = $4

-- name: labels_all
-- Every label of the tenant, by jumps from one to the next: the index is not read through.
WITH RECURSIVE each(label) AS (
    (SELECT min(label) FROM label WHERE tenant = $1)
    UNION ALL
    SELECT (SELECT min(l.label) FROM label l WHERE l.tenant = $1 AND l.label > each.label) FROM each WHERE each.label IS NOT NULL
)
SELECT label FROM each WHERE label IS NOT NULL LIMIT $2

-- name: metadata_of
-- What clients noted of a resource ($4: of one kind, or NULL), and what the archive did; no row when there is no such resource.
SELECT m.kind, m.value, m.revision
FROM (SELECT WHERE resource_exists($1, $2, $3)) r
LEFT JOIN user_metadata m ON m.tenant = $1 AND m.level = $2 AND m.orthanc_id = $3 AND ($4::integer IS NULL OR m.kind = $4) AND m.kind > 0
ORDER BY m.kind

-- name: metadata_put
-- See functions/resources.sql.
SELECT outcome, revision FROM metadata_put($1, $2, $3, $4, $5, $6, $7)

-- name: metadata_delete
-- See functions/resources.sql.
SELECT outcome, revision FROM metadata_delete($1, $2, $3, $4, $5, $6)

-- name: attachments_of
-- The attachments of a resource ($4: of one kind, or NULL); no row when there is no such resource.
SELECT a.kind, a.revision, a.object_key, a.object_size, a.md5
FROM (SELECT WHERE resource_exists($1, $2, $3)) r
LEFT JOIN attachment a ON a.tenant = $1 AND a.level = $2 AND a.orthanc_id = $3 AND ($4::integer IS NULL OR a.kind = $4)
ORDER BY a.kind

-- name: attachment_put
-- See functions/resources.sql.
SELECT outcome, revision FROM attachment_put($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: attachment_delete
-- See functions/resources.sql.
SELECT outcome, revision FROM attachment_delete($1, $2, $3, $4, $5, $6, $7)
