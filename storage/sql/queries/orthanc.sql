-- name: orthanc_instance
-- Where the instance of an Orthanc identifier lies.
SELECT i.sop_uid, s.series_uid, t.study_uid, i.sop_class, i.object_key, i.object_offset, i.object_size, i.transfer_syntax, i.file_sha256,
       i.meta_size, i.flags, i.bits_allocated, i.version AS revision, i.number_of_frames, i.frame_table IS NOT NULL AS has_frames
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE i.orthanc_id = $2 AND i.tenant = $1

-- name: orthanc_series
-- The series of the resources $3 by their Orthanc identifiers, all of level $2 or of any, with what names their folders.
-- Patients of several issuers may share an identifier. `only`: instances, where not the whole series was asked for. At most $4.
WITH wanted AS (
    SELECT s.id, p.orthanc_id AS of, NULL::text AS sop FROM patient p JOIN study t ON t.patient = p.id JOIN series s ON s.study = t.id
    WHERE $2 IN ('patient', '') AND p.orthanc_id = ANY ($3::bytea[]) AND p.tenant = $1
    UNION ALL
    SELECT s.id, t.orthanc_id, NULL FROM study t JOIN series s ON s.study = t.id
    WHERE $2 IN ('study', '') AND t.orthanc_id = ANY ($3::bytea[]) AND t.tenant = $1
    UNION ALL
    SELECT s.id, s.orthanc_id, NULL FROM series s WHERE $2 IN ('series', '') AND s.orthanc_id = ANY ($3::bytea[]) AND s.tenant = $1
    UNION ALL
    SELECT i.series, i.orthanc_id, i.sop_uid FROM instance i WHERE $2 = '' AND i.orthanc_id = ANY ($3::bytea[]) AND i.tenant = $1
), grouped AS (
    SELECT id, array_agg(of) AS found, CASE WHEN bool_and(sop IS NOT NULL) THEN array_agg(sop) END AS only FROM wanted GROUP BY id
)
SELECT t.study_uid, s.series_uid, s.modality, t.attributes AS of_study, s.attributes AS of_series, g.found, g.only,
       coalesce(cardinality(g.only), s.instance_count) AS instances
FROM grouped g JOIN series s USING (id) JOIN study t ON t.id = s.study
ORDER BY t.study_date, t.id, s.series_number, s.id LIMIT $4

-- name: orthanc_lookup
-- Resources by PatientID, whatever the case of its letters, or UID, which has none.
SELECT 'patient' AS level, orthanc_id FROM patient WHERE tenant = $1 AND lower(patient_id) = lower($2 COLLATE "C")
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

-- name: resource_statistics
-- Counts and bytes of a resource ($2, $3) and all in it; no row when there is no such resource.
WITH studies AS (
    SELECT t.* FROM patient p JOIN study t ON t.patient = p.id WHERE $2 = 'patient' AND p.orthanc_id = $3 AND p.tenant = $1
    UNION ALL
    SELECT t.* FROM study t WHERE $2 = 'study' AND t.orthanc_id = $3 AND t.tenant = $1
), found AS (
    SELECT s.id, s.orthanc_id, s.instance_count AS instances, s.bytes FROM studies t JOIN series s ON s.study = t.id
    UNION ALL
    SELECT s.id, s.orthanc_id, s.instance_count, s.bytes FROM series s WHERE $2 = 'series' AND s.orthanc_id = $3 AND s.tenant = $1
), held AS (
    SELECT 'study' AS level, orthanc_id FROM studies
    UNION ALL SELECT 'series', orthanc_id FROM found
    UNION ALL SELECT 'instance', i.orthanc_id FROM found f JOIN instance i ON i.series = f.id
    UNION SELECT $2, $3
)
SELECT (SELECT count(*) FROM studies) AS studies, count(*) AS series, coalesce(sum(instances), 0)::bigint AS instances,
       coalesce(sum(bytes), 0)::bigint
       + coalesce((SELECT object_size FROM instance WHERE $2 = 'instance' AND orthanc_id = $3 AND tenant = $1), 0) AS bytes,
       (SELECT coalesce(sum(a.object_size), 0)::bigint FROM held h
        JOIN attachment a ON a.tenant = $1 AND a.orthanc_id = h.orthanc_id AND a.level = h.level) AS attached
FROM found HAVING resource_exists($1, $2, $3)

-- name: orthanc_metadata
-- The finished metadata of an instance, unless the caller has those of its version ($3).
SELECT CASE WHEN version IS DISTINCT FROM $3 THEN metadata END AS metadata, metadata_crc, metadata_length, object_key, sop_uid, version
FROM instance WHERE orthanc_id = $2 AND tenant = $1

-- name: orthanc_first_metadata
-- The same of the first instance in a resource ($2, $3).
WITH first AS (
    (SELECT s.id FROM patient p JOIN study t ON t.patient = p.id JOIN series s ON s.study = t.id
     WHERE $2 = 'patient' AND p.orthanc_id = $3 AND p.tenant = $1 ORDER BY s.id LIMIT 1)
    UNION ALL
    (SELECT s.id FROM study t JOIN series s ON s.study = t.id WHERE $2 = 'study' AND t.orthanc_id = $3 AND t.tenant = $1 ORDER BY s.id LIMIT 1)
    UNION ALL
    SELECT s.id FROM series s WHERE $2 = 'series' AND s.orthanc_id = $3 AND s.tenant = $1
)
SELECT i.metadata, i.metadata_crc, i.metadata_length, i.object_key, i.sop_uid
FROM first JOIN instance i ON i.series = first.id ORDER BY i.received_at, i.sop_uid LIMIT 1

-- name: orthanc_each_metadata
-- The same of every instance in a resource ($2, $3), with its identifier.
WITH wanted AS (
    SELECT s.id FROM patient p JOIN study t ON t.patient = p.id JOIN series s ON s.study = t.id
    WHERE $2 = 'patient' AND p.orthanc_id = $3 AND p.tenant = $1
    UNION ALL
    SELECT s.id FROM study t JOIN series s ON s.study = t.id WHERE $2 = 'study' AND t.orthanc_id = $3 AND t.tenant = $1
    UNION ALL
    SELECT s.id FROM series s WHERE $2 = 'series' AND s.orthanc_id = $3 AND s.tenant = $1
)
SELECT i.orthanc_id, i.metadata, i.metadata_crc, i.metadata_length, i.object_key, i.sop_uid
FROM wanted JOIN instance i ON i.series = wanted.id ORDER BY i.series, i.instance_number, i.sop_uid

-- name: orthanc_shared
-- What may be the same in all of a resource ($2, $3): a row for each series, with the attributes in which its instances differ.
WITH wanted AS (
    SELECT s.id FROM patient p JOIN study t ON t.patient = p.id JOIN series s ON s.study = t.id
    WHERE $2 = 'patient' AND p.orthanc_id = $3 AND p.tenant = $1
    UNION ALL
    SELECT s.id FROM study t JOIN series s ON s.study = t.id WHERE $2 = 'study' AND t.orthanc_id = $3 AND t.tenant = $1
    UNION ALL
    SELECT s.id FROM series s WHERE $2 = 'series' AND s.orthanc_id = $3 AND s.tenant = $1
)
SELECT t.attributes::text AS of_study, s.attributes::text AS of_series, s.shared, s.instance_count,
       ARRAY(SELECT DISTINCT k FROM instance i, jsonb_object_keys(i.attributes) k WHERE i.series = s.id) AS differing
FROM wanted JOIN series s USING (id) JOIN study t ON t.id = s.study

-- name: orthanc_slices
-- Where the images of a series ($2) lie in space: identifier, frames, position, orientation, number.
SELECT i.orthanc_id, coalesce(octet_length(i.frame_table) / 12, i.number_of_frames, 1)::integer AS frames, i.instance_number,
       coalesce(CASE WHEN i.attributes ? '00200032' THEN i.attributes->'00200032' ELSE members_of(s.shared)->'00200032' END #>> '{Value}', '[]') AS position,
       coalesce(CASE WHEN i.attributes ? '00200037' THEN i.attributes->'00200037' ELSE members_of(s.shared)->'00200037' END #>> '{Value}', '[]') AS orientation
FROM series s JOIN instance i ON i.series = s.id WHERE s.orthanc_id = $2 AND s.tenant = $1
ORDER BY i.instance_number, i.sop_uid

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
       i.meta_size, i.flags, i.bits_allocated, i.version AS revision, i.number_of_frames, i.frame_table IS NOT NULL AS has_frames
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE i.tenant = $1 AND i.sop_uid = ANY ($2)

-- name: job_kinds
-- What the instances are that are parts of a job and not done.
SELECT DISTINCT i.sop_class, i.transfer_syntax FROM job_item j JOIN instance i ON i.tenant = $1 AND i.sop_uid = j.content
WHERE j.job = $2 AND j.status IS NULL

-- name: orthanc_series_instances
-- Where the instances of a series lie, by its Orthanc identifier.
SELECT i.sop_uid, s.series_uid, t.study_uid, i.sop_class, i.object_key, i.object_offset, i.object_size, i.transfer_syntax, i.file_sha256,
       i.meta_size, i.flags, i.bits_allocated, i.version AS revision, i.frame_table IS NOT NULL AS has_frames, i.orthanc_id, i.rows, i.columns
FROM series s JOIN study t ON t.id = s.study JOIN instance i ON i.series = s.id
WHERE s.orthanc_id = $2 AND s.tenant = $1

-- name: instances_known
-- Those of the SOP Instance UIDs $2 that are stored, and where.
SELECT sop_uid, orthanc_id, file_sha256, object_key, object_offset, object_size FROM instance WHERE tenant = $1 AND sop_uid = ANY ($2::text[])
