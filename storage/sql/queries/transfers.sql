-- name: transfer_originator
-- Who this archive is to those that it asks to pull.
SELECT originator FROM tenant WHERE id = $1

-- name: transfer_instances
-- The files of resources by their Orthanc identifiers, at any level, at most $3; their MD5 where it is known.
WITH wanted AS (
    SELECT s.id FROM patient p JOIN study t ON t.patient = p.id JOIN series s ON s.study = t.id WHERE p.orthanc_id = ANY ($2) AND p.tenant = $1
    UNION
    SELECT s.id FROM study t JOIN series s ON s.study = t.id WHERE t.orthanc_id = ANY ($2) AND t.tenant = $1
    UNION
    SELECT s.id FROM series s WHERE s.orthanc_id = ANY ($2) AND s.tenant = $1
)
SELECT i.orthanc_id, i.object_key, i.object_offset, i.object_size, m.md5
FROM instance i JOIN series s ON s.id = i.series LEFT JOIN file_md5 m ON m.object_key = i.object_key AND m.object_offset = i.object_offset
WHERE i.tenant = $1 AND (i.series IN (SELECT id FROM wanted) OR i.orthanc_id = ANY ($2))
ORDER BY s.study, s.series_number, s.id, i.instance_number, i.sop_uid LIMIT $3

-- name: transfer_located
-- Where files lie, by the Orthanc identifiers of their instances.
SELECT orthanc_id, object_key, object_offset, object_size FROM instance WHERE tenant = $1 AND orthanc_id = ANY ($2)

-- name: file_md5_note
-- Keep what was found out.
INSERT INTO file_md5 (object_key, object_offset, md5) SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[]) ON CONFLICT DO NOTHING

-- name: file_md5_forget
-- Nobody has asked for so long.
DELETE FROM file_md5 WHERE noted_at < now() - $1::interval

-- name: transfer_create
-- See functions/transfers.sql.
SELECT transfer_create($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)

-- name: transfer_get
-- One of them.
SELECT id, compression, instances, size, path FROM transfer WHERE tenant = $1 AND role = $2 AND id = $3

-- name: transfer_bucket
-- What a bucket of a transfer is to hold.
SELECT t.compression, b.size FROM transfer t JOIN transfer_bucket b ON b.transfer = t.id WHERE t.tenant = $1 AND t.role = $2 AND t.id = $3 AND b.number = $4

-- name: transfer_open
-- Buckets that are neither sent nor come, from the one behind $2 on.
SELECT number, size, pieces::text FROM transfer_bucket WHERE transfer = $1 AND number > $2 AND NOT done ORDER BY number LIMIT $3

-- name: transfer_sent
-- A bucket was sent.
WITH noted AS (UPDATE transfer_bucket SET done = true WHERE transfer = $1 AND number = $2)
UPDATE transfer SET touched_at = now() WHERE id = $1

-- name: transfer_done
-- How many buckets there are, are done, and the bytes of these.
SELECT count(*) AS buckets, count(*) FILTER (WHERE done) AS done, coalesce(sum(size) FILTER (WHERE done), 0)::bigint AS bytes
FROM transfer_bucket WHERE transfer = $1

-- name: transfer_files
-- Instances from the one behind $2 on, and the objects that hold them.
SELECT i.number, i.name, i.md5, i.places::text,
       (SELECT array_agg(b.key ORDER BY p.n) FROM jsonb_array_elements(i.places) WITH ORDINALITY AS p (place, n)
        LEFT JOIN transfer_bucket b ON b.transfer = i.transfer AND b.number = (p.place->>0)::integer) AS keys
FROM transfer_instance i WHERE i.transfer = $1 AND i.number > $2 ORDER BY i.number LIMIT $3

-- name: transfer_put
-- See functions/transfers.sql.
SELECT transfer_put($1, $2, $3, $4, $5, $6)

-- name: transfer_commit
-- See functions/transfers.sql.
SELECT job, missing FROM transfer_commit($1, $2, $3, $4::text::jsonb)

-- name: transfer_finish
-- Everything is stored: what came goes after the grace.
WITH finished AS (UPDATE transfer SET over = true, touched_at = now() WHERE id = $1)
SELECT transfer_empty(ARRAY[$1::uuid], $2)

-- name: transfer_drop
-- See functions/transfers.sql.
SELECT transfer_drop($1, $2, $3, $4)

-- name: transfer_expire
-- See functions/transfers.sql.
SELECT transfer_expire($1, $2, $3)
