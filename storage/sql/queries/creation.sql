-- name: creation_parent
-- What a resource says of itself and of what is above it, by its Orthanc identifier.
SELECT 'patient' AS level, attributes::text FROM patient WHERE orthanc_id = $2 AND tenant = $1
UNION ALL SELECT 'study', attributes::text FROM study WHERE orthanc_id = $2 AND tenant = $1
UNION ALL SELECT 'series', (t.attributes || s.attributes)::text FROM series s JOIN study t ON t.id = s.study WHERE s.orthanc_id = $2 AND s.tenant = $1
UNION ALL SELECT 'instance', '{}' FROM instance WHERE orthanc_id = $2 AND tenant = $1
LIMIT 1
