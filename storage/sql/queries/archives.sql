-- name: archive_identifier
-- The Orthanc identifier of a study, of the series $3 in it, or of the instance $4 in that.
SELECT CASE WHEN $4::text IS NOT NULL THEN i.orthanc_id WHEN $3::text IS NOT NULL THEN s.orthanc_id ELSE t.orthanc_id END
FROM study t LEFT JOIN series s ON s.study = t.id AND s.series_uid = $3 LEFT JOIN instance i ON i.series = s.id AND i.sop_uid = $4
WHERE t.tenant = $1 AND t.study_uid = $2

-- name: archive_files
-- The files of the series $2, in reading order; where $3 says so, only those instances that are among $4.
SELECT w.number, array_agg(i.sop_uid ORDER BY i.instance_number, i.sop_uid) AS sops,
       array_agg(substr(i.file_sha256, 1, 8) ORDER BY i.instance_number, i.sop_uid) AS versions,
       array_agg(i.object_size ORDER BY i.instance_number, i.sop_uid) AS sizes
FROM unnest($2::text[], $3::boolean[]) WITH ORDINALITY AS w (series_uid, partly, number)
JOIN series s ON s.tenant = $1 AND s.series_uid = w.series_uid
JOIN instance i ON i.series = s.id
WHERE NOT w.partly OR i.sop_uid = ANY ($4::text[])
GROUP BY w.number

-- name: file_crc_known
-- Checksums of files in these objects.
SELECT object_key, object_offset, crc FROM file_crc WHERE object_key = ANY ($1)

-- name: file_crc_note
-- Keep checksums.
INSERT INTO file_crc (object_key, object_offset, crc) SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) ON CONFLICT DO NOTHING

-- name: file_crc_forget
-- Nobody has gone on for so long.
DELETE FROM file_crc WHERE noted_at < now() - $1::interval
