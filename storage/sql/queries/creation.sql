-- name: creation_parent
-- What a resource says of itself and of what is above it, by its Orthanc identifier; of patients that differ in their issuer alone, the oldest.
SELECT 'patient' AS level, attributes::text, id FROM patient WHERE orthanc_id = $2 AND tenant = $1
UNION ALL SELECT 'study', attributes::text, id FROM study WHERE orthanc_id = $2 AND tenant = $1
UNION ALL SELECT 'series', (t.attributes || s.attributes)::text, s.id FROM series s JOIN study t ON t.id = s.study
WHERE s.orthanc_id = $2 AND s.tenant = $1
UNION ALL SELECT 'instance', '{}', 0 FROM instance WHERE orthanc_id = $2 AND tenant = $1
ORDER BY id LIMIT 1
