-- name: restate_instance
-- See functions/reconstruction.sql.
SELECT restate_instance($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26,
    $27, $28, $29, $30, $31, $32)

-- name: instance_to_restate
-- What is known of the file of an instance, and of its metadata.
SELECT file_sha256, metadata IS NULL AS side, metadata_crc, metadata_length FROM instance WHERE tenant = $1 AND sop_uid = $2 AND object_key = $3

-- name: reconstruction_speaker
-- The instance that a study, or a series of it ($3), is described by: the first one, of those that name the patient of the study.
SELECT i.sop_uid, s.series_uid, t.study_uid, i.sop_class, i.object_key, i.object_offset, i.object_size, i.transfer_syntax, i.file_sha256,
       i.meta_size, i.flags, i.bits_allocated, i.version AS revision, i.number_of_frames, i.frame_table IS NOT NULL AS has_frames
FROM study t JOIN series s ON s.study = t.id JOIN instance i ON i.series = s.id
WHERE t.tenant = $1 AND t.study_uid = $2 AND ($3::text IS NULL OR s.series_uid = $3)
ORDER BY i.flags & 1, i.received_at, i.sop_uid LIMIT 1

-- name: reconstruction_place
-- The studies of a resource ($2, $3), with the series or instance that it is. The oldest study of a patient is the last: what it says of them stays.
(SELECT t.study_uid, NULL AS series_uid, NULL AS sop_uid FROM patient p JOIN study t ON t.patient = p.id
 WHERE $2 = 'patient' AND p.orthanc_id = $3 AND p.tenant = $1 ORDER BY t.id DESC)
UNION ALL SELECT t.study_uid, NULL, NULL FROM study t WHERE $2 = 'study' AND t.orthanc_id = $3 AND t.tenant = $1
UNION ALL SELECT t.study_uid, s.series_uid, NULL FROM series s JOIN study t ON t.id = s.study
WHERE $2 = 'series' AND s.orthanc_id = $3 AND s.tenant = $1
UNION ALL SELECT t.study_uid, s.series_uid, i.sop_uid FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE $2 = 'instance' AND i.orthanc_id = $3 AND i.tenant = $1

-- name: reconstruction_studies
-- Every study, the youngest first, $2 at most.
SELECT study_uid FROM study WHERE tenant = $1 ORDER BY id DESC LIMIT $2
