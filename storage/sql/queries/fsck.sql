-- name: fsck_objects
-- What the object store lists, for this connection alone; `base` is the key without the suffix of a side object.
CREATE TEMPORARY TABLE fsck_object (
    key  text COLLATE "C" NOT NULL,
    base text COLLATE "C" NOT NULL,
    side boolean NOT NULL,
    size bigint NOT NULL
)

-- name: fsck_analyze
-- Temporary tables are not analyzed by themselves, and the joins below are as large as the archive.
ANALYZE fsck_object

-- name: fsck_totals
-- What is compared.
SELECT (SELECT count(*) FROM instance) AS instances, (SELECT coalesce(sum(object_size), 0)::bigint FROM instance) AS bytes,
       (SELECT count(*) FROM fsck_object) AS objects, (SELECT coalesce(sum(size), 0)::bigint FROM fsck_object) AS object_bytes,
       (SELECT count(*) FROM intent) AS intents, (SELECT count(*) FROM tomb) AS tombs,
       (SELECT count(*) FROM tomb WHERE not_before < now() - $1::interval)
       + (SELECT count(*) FROM intent WHERE claimed_at < now() - $2::interval - $1::interval) AS overdue

-- name: fsck_rows
-- Rows whose object, or side object, was not listed or has another size. What was stored meanwhile is among them: ask the store.
SELECT i.tenant, i.sop_uid, i.object_key, i.object_offset + i.object_size AS size, i.metadata IS NULL AS side
FROM instance i
LEFT JOIN fsck_object o ON o.base = i.object_key AND NOT o.side
LEFT JOIN fsck_object s ON s.base = i.object_key AND s.side
WHERE o.size IS DISTINCT FROM i.object_offset + i.object_size OR (i.metadata IS NULL AND s.key IS NULL)
UNION ALL
SELECT d.tenant, d.series_uid, d.object_key, d.object_size, false FROM derived d LEFT JOIN fsck_object o ON o.key = d.object_key
WHERE d.object_key IS NOT NULL AND o.size IS DISTINCT FROM d.object_size
UNION ALL
SELECT a.tenant, encode(a.orthanc_id, 'hex'), a.object_key, a.object_size, false FROM attachment a LEFT JOIN fsck_object o ON o.key = a.object_key
WHERE o.size IS DISTINCT FROM a.object_size

-- name: fsck_unexplained
-- Listed objects that no row, attachment, intent, tomb, job or transfer explains. What was swept meanwhile is among them: ask the store.
SELECT o.key, o.size FROM fsck_object o
WHERE NOT EXISTS (SELECT FROM instance i WHERE i.object_key = o.base AND (NOT o.side OR i.metadata IS NULL))
  AND NOT EXISTS (SELECT FROM derived d WHERE d.object_key = o.key)
  AND NOT EXISTS (SELECT FROM attachment a WHERE a.object_key = o.key)
  AND NOT EXISTS (SELECT FROM intent n WHERE n.key = o.base)
  AND NOT EXISTS (SELECT FROM tomb t WHERE t.key = o.base)
  AND NOT EXISTS (SELECT FROM job j WHERE j.object_key = o.base)
  AND NOT EXISTS (SELECT FROM job j WHERE j.result_key = o.base)
  AND NOT EXISTS (SELECT FROM transfer_bucket b WHERE b.key = o.base)

-- name: fsck_counts
-- Parents whose counts differ from their children, or that have none.
SELECT 'series' AS level, s.series_uid AS uid, s.instance_count AS kept, c.n AS found
FROM series s LEFT JOIN (SELECT series, count(*) AS n, sum(object_size) AS bytes FROM instance GROUP BY series) c ON c.series = s.id
WHERE (s.instance_count, s.bytes) IS DISTINCT FROM (c.n, c.bytes)
UNION ALL
SELECT 'study', t.study_uid, t.instance_count, c.n
FROM study t LEFT JOIN (SELECT study, count(*) AS series, sum(instance_count) AS n, sum(bytes) AS bytes FROM series GROUP BY study) c ON c.study = t.id
WHERE (t.series_count, t.instance_count, t.bytes) IS DISTINCT FROM (c.series, c.n, c.bytes)
UNION ALL
SELECT 'patient', p.id::text, p.study_count, c.n
FROM patient p LEFT JOIN (SELECT patient, count(*) AS n FROM study GROUP BY patient) c ON c.patient = p.id
WHERE p.study_count IS DISTINCT FROM c.n

-- name: fsck_still
-- Whether a row still points at the object: it may have been deleted or replaced meanwhile. $2: of an instance, of the series of a slide, or the
-- Orthanc identifier of what has an attachment.
SELECT EXISTS (SELECT FROM instance WHERE tenant = $1 AND sop_uid = $2 AND object_key = $3)
    OR EXISTS (SELECT FROM derived WHERE tenant = $1 AND series_uid = $2 AND object_key = $3)
    OR EXISTS (SELECT FROM attachment WHERE tenant = $1 AND encode(orthanc_id, 'hex') = $2 AND object_key = $3)

-- name: fsck_page
-- All rows in the order of their key, a page at a time.
SELECT tenant, sop_uid, object_key, object_offset, object_size, file_sha256, metadata_crc, metadata_length, metadata IS NULL AS side
FROM instance WHERE (tenant, sop_uid) > ($1, $2) ORDER BY tenant, sop_uid LIMIT $3

-- name: fsck_metadata
-- The stored metadata of one instance.
SELECT metadata FROM instance WHERE tenant = $1 AND sop_uid = $2 AND object_key = $3

-- name: fsck_attachments
-- All attachments in the order of their keys, a page at a time.
SELECT tenant, encode(orthanc_id, 'hex') AS sop_uid, object_key, 0 AS object_offset, object_size, md5 FROM attachment WHERE object_key > $1 ORDER BY object_key LIMIT $2
