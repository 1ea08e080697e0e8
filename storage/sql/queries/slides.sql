-- name: series_version_of
-- The version of a series: what a process compares with what it remembers of it.
SELECT version FROM series WHERE tenant = $1 AND series_uid = $2

-- name: series_versions
-- The same of several series.
SELECT series_uid, version FROM series WHERE tenant = $1 AND series_uid = ANY ($2)

-- name: series_of_orthanc
-- The series with an Orthanc identifier.
SELECT series_uid FROM series WHERE orthanc_id = $2 AND tenant = $1 LIMIT 1

-- name: slide_instances
-- The tiled instances of a series in reading order, with their descriptions; whole-slide images ($3) also without one. `beyond`: the
-- descriptions up to here have more than $5 bytes, and those from here on are not read. `made_…`: the object of coarse levels, and what it is of.
SELECT i.sop_uid, s.series_uid, i.sop_class, i.object_key, i.object_offset, i.object_size, i.transfer_syntax, i.file_sha256, i.meta_size,
       i.flags, i.bits_allocated, i.version AS revision, i.frame_table IS NOT NULL AS has_frames, octet_length(i.frame_table) AS table_size, t.study_uid,
       s.version AS parent_version,
       CASE WHEN sum(d.size) OVER so_far <= $5 THEN d.header END AS header, CASE WHEN sum(d.size) OVER so_far <= $5 THEN d.places END AS places,
       d.per_frame, d.icc_sha256, coalesce(sum(d.size) OVER so_far > $5, false) AS beyond,
       m.fingerprint AS made_of, m.object_key AS made_key, m.object_size AS made_size
FROM series s JOIN study t ON t.id = s.study JOIN instance i ON i.series = s.id
LEFT JOIN derived m ON m.tenant = s.tenant AND m.series_uid = s.series_uid AND m.object_key IS NOT NULL
LEFT JOIN (SELECT *, octet_length(header) + coalesce(octet_length(places), 0) AS size FROM tiled) d
    ON d.tenant = i.tenant AND d.sop_uid = i.sop_uid AND d.file_sha256 = i.file_sha256
WHERE s.tenant = $1 AND s.series_uid = $2 AND (d.sop_uid IS NOT NULL OR i.sop_class = $3)
WINDOW so_far AS (ORDER BY i.instance_number, i.sop_uid)
ORDER BY i.instance_number, i.sop_uid
LIMIT $4

-- name: undescribed
-- What the description of an instance is made from; nothing when it was replaced meanwhile.
SELECT sop_uid, object_key, metadata, metadata_crc, metadata_length, bulk_table, file_sha256 FROM instance WHERE tenant = $1 AND sop_uid = $2 AND object_key = $3

-- name: describe_tiled
-- Keep a description as long as its file is stored; two processes may do so at once. The worker is to look at the slide.
WITH stored AS (
    SELECT i.tenant, i.sop_uid, i.file_sha256, s.series_uid FROM instance i JOIN series s ON s.id = i.series
    WHERE i.tenant = $1 AND i.sop_uid = $2 AND i.file_sha256 = $3
), due AS (
    INSERT INTO derived (tenant, series_uid, due) SELECT tenant, series_uid, now() FROM stored
    ON CONFLICT (tenant, series_uid) DO UPDATE SET due = excluded.due, tries = 0
)
INSERT INTO tiled (tenant, sop_uid, file_sha256, per_frame, icc_sha256, header, places)
SELECT tenant, sop_uid, file_sha256, $4, $5, $6, $7 FROM stored
ON CONFLICT (tenant, sop_uid) DO UPDATE SET file_sha256 = excluded.file_sha256, per_frame = excluded.per_frame,
    icc_sha256 = excluded.icc_sha256, header = excluded.header, places = excluded.places

-- name: frame_records
-- A stretch of the frame table of an instance that was located before: $4 bytes from byte $5 on, counted from 1.
SELECT substring(frame_table FROM $5 FOR $4) FROM instance WHERE tenant = $1 AND sop_uid = $2 AND object_key = $3

-- name: study_objects
-- Instances of some SOP classes ($3) in a study, the newest first, with the length of their metadata.
SELECT i.sop_uid, s.series_uid, i.sop_class, i.object_key, i.object_offset, i.object_size, i.transfer_syntax, i.file_sha256, i.meta_size,
       i.flags, i.bits_allocated, i.version AS revision, i.frame_table IS NOT NULL AS has_frames, octet_length(i.frame_table) AS table_size, i.metadata_length,
       t.version AS parent_version
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE t.tenant = $1 AND t.study_uid = $2 AND i.sop_class = ANY ($3::text[])
ORDER BY i.received_at DESC, i.sop_uid
LIMIT $4

-- name: object_metadata
-- The finished metadata of an instance; nothing when it was removed or replaced meanwhile.
SELECT sop_uid, object_key, metadata, metadata_crc, metadata_length FROM instance WHERE tenant = $1 AND sop_uid = $2 AND object_key = $3

-- name: series_frames
-- The images of a series by its Orthanc identifier, in reading order, $3 at most: their frames and sizes; and what the series is called.
SELECT i.orthanc_id, i.rows, i.columns, coalesce(octet_length(i.frame_table) / 12, i.number_of_frames, 1)::integer AS frames,
       coalesce(s.attributes->'0008103E'->'Value'->>0, s.series_uid) AS description
FROM series s JOIN instance i ON i.series = s.id
WHERE s.orthanc_id = $2 AND s.tenant = $1 AND i.frame_table IS NOT NULL AND i.rows > 0 AND i.columns > 0
ORDER BY i.instance_number, i.sop_uid LIMIT $3
