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

-- name: orthanc_instances
-- SOP classes and instances of resources by their Orthanc identifiers, at any level, at most $3; in reading order.
WITH wanted AS (
    SELECT s.id FROM patient p JOIN study t ON t.patient = p.id JOIN series s ON s.study = t.id WHERE p.orthanc_id = ANY ($2) AND p.tenant = $1
    UNION
    SELECT s.id FROM study t JOIN series s ON s.study = t.id WHERE t.orthanc_id = ANY ($2) AND t.tenant = $1
    UNION
    SELECT s.id FROM series s WHERE s.orthanc_id = ANY ($2) AND s.tenant = $1
)
SELECT i.sop_class, i.sop_uid FROM instance i JOIN series s ON s.id = i.series
WHERE i.tenant = $1 AND (i.series IN (SELECT id FROM wanted) OR i.orthanc_id = ANY ($2))
ORDER BY s.study, s.series_number, s.id, i.instance_number, i.sop_uid LIMIT $3

-- name: orthanc_known
-- Levels and unique keys of resources by their Orthanc identifiers.
SELECT 'Patient' AS level, p.orthanc_id, p.patient_id, NULL AS study_uid, NULL AS series_uid, NULL AS sop_uid FROM patient p
WHERE p.orthanc_id = ANY ($2) AND p.tenant = $1
UNION ALL
SELECT 'Study', t.orthanc_id, t.patient_id, t.study_uid, NULL, NULL FROM study t WHERE t.orthanc_id = ANY ($2) AND t.tenant = $1
UNION ALL
SELECT 'Series', s.orthanc_id, t.patient_id, t.study_uid, s.series_uid, NULL FROM series s JOIN study t ON t.id = s.study
WHERE s.orthanc_id = ANY ($2) AND s.tenant = $1
UNION ALL
SELECT 'Instance', i.orthanc_id, t.patient_id, t.study_uid, s.series_uid, i.sop_uid FROM instance i JOIN series s ON s.id = i.series
JOIN study t ON t.id = s.study WHERE i.orthanc_id = ANY ($2) AND i.tenant = $1

-- name: located_instances
-- Where instances lie, by their SOP Instance UIDs.
SELECT i.sop_uid, s.series_uid, t.study_uid, i.sop_class, i.object_key, i.object_offset, i.object_size, i.transfer_syntax, i.file_sha256,
       i.meta_size, i.flags, i.bits_allocated, i.number_of_frames, i.frame_table IS NOT NULL AS has_frames
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE i.tenant = $1 AND i.sop_uid = ANY ($2)

-- name: job_kinds
-- What the instances are that are parts of a job and not done.
SELECT DISTINCT i.sop_class, i.transfer_syntax FROM job_item j JOIN instance i ON i.tenant = $1 AND i.sop_uid = j.content
WHERE j.job = $2 AND j.status IS NULL
