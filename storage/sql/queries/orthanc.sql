-- name: orthanc_instance
-- Where the instance of an Orthanc identifier lies.
SELECT i.sop_uid, s.series_uid, t.study_uid, i.sop_class, i.object_key, i.object_offset, i.object_size, i.transfer_syntax, i.file_sha256,
       i.meta_size, i.flags, i.bits_allocated, i.number_of_frames, i.frame_table IS NOT NULL AS has_frames
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE i.orthanc_id = $2 AND i.tenant = $1

-- name: orthanc_series
-- The series of a patient, study or series ($2) by its Orthanc identifier, with what names their folders.
-- Patients of several issuers may share an identifier.
WITH wanted AS (
    SELECT s.id FROM patient p JOIN study t ON t.patient = p.id JOIN series s ON s.study = t.id
    WHERE $2 = 'patient' AND p.orthanc_id = $3 AND p.tenant = $1
    UNION ALL
    SELECT s.id FROM study t JOIN series s ON s.study = t.id WHERE $2 = 'study' AND t.orthanc_id = $3 AND t.tenant = $1
    UNION ALL
    SELECT s.id FROM series s WHERE $2 = 'series' AND s.orthanc_id = $3 AND s.tenant = $1
)
SELECT t.study_uid, s.series_uid, s.modality, t.attributes AS of_study, s.attributes AS of_series
FROM wanted JOIN series s USING (id) JOIN study t ON t.id = s.study
ORDER BY t.study_date, t.id, s.series_number, s.id

-- name: orthanc_lookup
-- Resources by PatientID, whatever the case of its letters, or UID, which has none.
SELECT 'patient' AS level, orthanc_id FROM patient WHERE tenant = $1 AND lower(patient_id) = lower($2)
UNION
SELECT 'study', orthanc_id FROM study WHERE tenant = $1 AND study_uid = $2
UNION
SELECT 'series', orthanc_id FROM series WHERE tenant = $1 AND series_uid = $2
UNION
SELECT 'instance', orthanc_id FROM instance WHERE tenant = $1 AND sop_uid = $2

-- name: delete_orthanc
-- See functions/delete.sql.
SELECT level, orthanc_id FROM delete_orthanc($1, $2, $3, $4)

-- name: delete_all
-- See functions/delete.sql.
SELECT delete_all($1, $2, $3, $4)

-- name: patient_protected
-- Patients of several issuers may share an identifier: they are protected together.
SELECT bool_or(protected) FROM patient WHERE orthanc_id = $2 AND tenant = $1

-- name: patient_protect
-- Keep a patient when others are recycled.
UPDATE patient SET protected = $3 WHERE orthanc_id = $2 AND tenant = $1 RETURNING id
