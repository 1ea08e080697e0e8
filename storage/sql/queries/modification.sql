-- name: modification_end
-- See functions/modification.sql.
SELECT modification_end($1, $2, $3, $4, $5, $6, $7, $8)

-- name: modification_members
-- The series that hold parts of a job, with their studies.
SELECT DISTINCT s.series_uid, t.study_uid FROM job_item j JOIN instance i ON i.tenant = $1 AND i.sop_uid = j.content
JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study WHERE j.job = $2

-- name: modification_contents
-- The parts of a job: SOP Instance UIDs.
SELECT content FROM job_item WHERE job = $1

-- name: modification_made
-- What a modification has made, at these levels ($3), the topmost first.
WITH found AS (
    SELECT p.orthanc_id AS p, t.orthanc_id AS t, s.orthanc_id AS s, i.orthanc_id AS i
    FROM job_item j JOIN instance i ON i.orthanc_id = decode(j.comment, 'hex') AND i.tenant = $1
    JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study JOIN patient p ON p.id = t.patient
    WHERE j.job = $2 AND j.status = 0
)
SELECT DISTINCT v.n, v.level, v.id AS orthanc_id
FROM found, LATERAL (VALUES (1, 'patient', p), (2, 'study', t), (3, 'series', s), (4, 'instance', i)) AS v(n, level, id)
WHERE v.level = ANY ($3::text[]) ORDER BY v.n, v.id

-- name: modification_partial
-- Whether some of these instances are in a study of which others are not among them.
SELECT EXISTS (
    SELECT FROM unnest($2::text[]) AS u(sop) JOIN instance i ON i.tenant = $1 AND i.sop_uid = u.sop JOIN series s ON s.id = i.series
    JOIN study t ON t.id = s.study GROUP BY t.id HAVING count(*) < t.instance_count)

-- name: modification_first
-- The finished metadata of the first instance of a series.
SELECT i.object_key, i.sop_uid, i.metadata, i.metadata_crc, i.metadata_length FROM series s JOIN instance i ON i.series = s.id
WHERE s.tenant = $1 AND s.series_uid = $2 ORDER BY i.instance_number, i.sop_uid LIMIT 1

-- name: restate_series
-- See functions/modification.sql.
SELECT restate_series($1, $2, $3, $4, $5::text::jsonb)

-- name: restate_study
-- See functions/modification.sql.
SELECT restate_study($1, $2, $3, $4, $5, $6::text::jsonb)

-- name: study_header
-- The attributes of a study and its patient, by its Orthanc identifier.
SELECT study_uid, attributes::text FROM study WHERE orthanc_id = $2 AND tenant = $1

-- name: rest_state_count
-- The next number of a counter.
INSERT INTO rest_state (tenant, name, value) VALUES ($1, $2, '1')
ON CONFLICT (tenant, name) DO UPDATE SET value = (rest_state.value::bigint + 1)::text RETURNING value::bigint

-- name: study_ids
-- The Orthanc identifiers of studies.
SELECT regexp_replace(encode(orthanc_id, 'hex'), '(.{8})(?=.)', '\1-', 'g') AS id FROM study WHERE tenant = $1 AND study_uid = ANY ($2)

-- name: patient_headers
-- What is known of the patients with a PatientID, one for each issuer.
SELECT attributes::text FROM patient WHERE tenant = $1 AND patient_id = $2

-- name: patients_with_other_studies
-- What is known of those of the patients $2 who have a study of which none of the instances $3 is a part.
SELECT attributes::text FROM patient p WHERE tenant = $1 AND patient_id = ANY ($2) AND EXISTS (
    SELECT FROM study t WHERE t.patient = p.id AND t.id NOT IN (
        SELECT s.study FROM instance i JOIN series s ON s.id = i.series WHERE i.tenant = $1 AND i.sop_uid = ANY ($3::text[])))

-- name: modification_burned_in
-- How many of the instances that a modification made say that their pixels may name the patient: Burned In Annotation (0028,0301) is YES.
WITH made AS (
    SELECT i.series, i.attributes->'00280301' AS own FROM job_item j
    JOIN instance i ON i.orthanc_id = decode(j.comment, 'hex') AND i.tenant = $1 WHERE j.job = $2 AND j.status = 0
), shared AS MATERIALIZED (
    SELECT id, members_of(s.shared)->'00280301' AS every FROM series s WHERE id IN (SELECT series FROM made)
)
SELECT count(*) FROM made JOIN shared ON id = series WHERE coalesce(own, every) #>> '{Value,0}' = 'YES'
