-- name: instance_location
-- Where one instance lies. $3 may be NULL: addressed by study and SOP UID alone.
SELECT i.sop_uid, s.series_uid, i.sop_class, i.object_key, i.object_offset, i.object_size, i.transfer_syntax, i.file_sha256, i.meta_size,
       i.flags, i.bits_allocated, i.version AS revision, i.number_of_frames, i.frame_table IS NOT NULL AS has_frames
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE i.tenant = $1 AND i.sop_uid = $4 AND t.study_uid = $2 AND ($3::text IS NULL OR s.series_uid = $3)

-- name: bulk_location
-- One instance with its bulk data table.
SELECT i.sop_uid, s.series_uid, i.sop_class, i.object_key, i.object_offset, i.object_size, i.transfer_syntax, i.file_sha256, i.meta_size,
       i.flags, i.bits_allocated, i.version AS revision, i.number_of_frames, i.frame_table IS NOT NULL AS has_frames, i.bulk_table
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE i.tenant = $1 AND i.sop_uid = $4 AND t.study_uid = $2 AND ($3::text IS NULL OR s.series_uid = $3)

-- name: frame_locations
-- One instance with the records of the wanted frames ($5: 0-based), each a slice of the frame table.
SELECT i.sop_uid, s.series_uid, i.sop_class, i.object_key, i.object_offset, i.object_size, i.transfer_syntax, i.file_sha256, i.meta_size,
       i.flags, i.bits_allocated, i.version AS revision, i.number_of_frames, i.frame_table IS NOT NULL AS has_frames, octet_length(i.frame_table) AS table_size,
       (SELECT string_agg(substring(i.frame_table FROM f * 12 + 1 FOR 12), ''::bytea ORDER BY o)
        FROM unnest($5::integer[]) WITH ORDINALITY AS u(f, o)) AS records
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE i.tenant = $1 AND i.sop_uid = $4 AND s.series_uid = $3 AND t.study_uid = $2

-- name: frame_overflow
-- Extents of fragmented frames, for the rare instance that has them.
SELECT frame_overflow FROM instance WHERE tenant = $1 AND sop_uid = $2 AND object_key = $3

-- name: study_instances
-- Every instance of a study, in reading order; keyset: behind series $3 (number, id), instance ($4, $5).
SELECT i.sop_uid, s.series_uid, i.sop_class, i.object_key, i.object_offset, i.object_size, i.transfer_syntax, i.file_sha256, i.meta_size,
       i.flags, i.bits_allocated, i.version AS revision, i.number_of_frames, i.frame_table IS NOT NULL AS has_frames, t.version AS parent_version
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE t.tenant = $1 AND t.study_uid = $2
ORDER BY s.series_number, s.id, i.instance_number, i.sop_uid

-- name: series_instances
-- Every instance of a series, in reading order.
SELECT i.sop_uid, s.series_uid, i.sop_class, i.object_key, i.object_offset, i.object_size, i.transfer_syntax, i.file_sha256, i.meta_size,
       i.flags, i.bits_allocated, i.version AS revision, i.number_of_frames, i.frame_table IS NOT NULL AS has_frames, s.version AS parent_version
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE s.tenant = $1 AND s.series_uid = $3 AND t.study_uid = $2
ORDER BY i.instance_number, i.sop_uid

-- name: study_metadata
-- Finished metadata of a study, in reading order.
SELECT i.metadata, i.metadata_crc, i.metadata_length, i.object_key, i.sop_uid, t.version
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE t.tenant = $1 AND t.study_uid = $2
ORDER BY s.series_number, s.id, i.instance_number, i.sop_uid
LIMIT $3

-- name: series_metadata
-- Finished metadata of a series, in reading order.
SELECT i.metadata, i.metadata_crc, i.metadata_length, i.object_key, i.sop_uid, s.version
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE s.tenant = $1 AND s.series_uid = $3 AND t.study_uid = $2
ORDER BY i.instance_number, i.sop_uid
LIMIT $4

-- name: instance_metadata
-- Finished metadata of one instance.
SELECT i.metadata, i.metadata_crc, i.metadata_length, i.object_key, i.sop_uid, i.version
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE i.tenant = $1 AND i.sop_uid = $4 AND s.series_uid = $3 AND t.study_uid = $2

-- name: study_version
-- For conditional requests and cached answers.
SELECT version FROM study WHERE tenant = $1 AND study_uid = $2

-- name: series_version
-- For conditional requests and cached answers.
SELECT s.version FROM series s JOIN study t ON t.id = s.study WHERE s.tenant = $1 AND s.series_uid = $3 AND t.study_uid = $2

-- name: instance_version
-- For conditional requests and cached answers.
SELECT i.version FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE i.tenant = $1 AND i.sop_uid = $4 AND s.series_uid = $3 AND t.study_uid = $2

-- name: bulk_table
-- The bulk data table of an instance that was located before; nothing when it was replaced meanwhile.
SELECT bulk_table FROM instance WHERE object_key = $1 AND sop_uid = $2 AND tenant = $3

-- name: frame_table_size
-- How many frames an instance serves.
SELECT octet_length(frame_table) FROM instance WHERE tenant = $1 AND sop_uid = $2 AND object_key = $3
