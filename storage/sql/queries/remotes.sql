-- name: remote_list
-- The declared servers of a kind by name; of headers the names only, and no password of a key.
SELECT kind, name, url, username, password IS NOT NULL AS has_password, array(SELECT jsonb_object_keys(headers) ORDER BY 1) AS header_names, timeout, (properties - 'CertificateKeyPassword')::text AS properties
FROM remote WHERE tenant = $1 AND kind = $2 ORDER BY name

-- name: remote_get
-- One of them, likewise.
SELECT kind, name, url, username, password IS NOT NULL AS has_password, array(SELECT jsonb_object_keys(headers) ORDER BY 1) AS header_names, timeout, (properties - 'CertificateKeyPassword')::text AS properties
FROM remote WHERE tenant = $1 AND kind = $2 AND name = $3

-- name: remote_to_call
-- One of them, with what it is called with.
SELECT url, username, password, headers::text, timeout, properties::text FROM remote WHERE tenant = $1 AND kind = $2 AND name = $3

-- name: remote_put
-- Declare or change one; no row where there are $10 already.
INSERT INTO remote (tenant, kind, name, url, username, password, headers, timeout, properties)
SELECT $1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9::text::jsonb
WHERE (SELECT count(*) FROM remote WHERE tenant = $1 AND kind = $2 AND name <> $3) < $10
ON CONFLICT (tenant, kind, name) DO UPDATE SET url = excluded.url, username = excluded.username, password = excluded.password,
    headers = excluded.headers, timeout = excluded.timeout, properties = excluded.properties
RETURNING true

-- name: remotes_all
-- Those of all tenants, with what they are called with.
SELECT tenant, kind, name, url, password, headers::text, properties::text FROM remote ORDER BY tenant, kind, name

-- name: remote_seal
-- What one is called with, encrypted otherwise, where it is still what it was.
UPDATE remote SET password = $5, headers = $6::text::jsonb, properties = $7::text::jsonb
WHERE tenant = $1 AND kind = $2 AND name = $3 AND url = $4 AND password IS NOT DISTINCT FROM $8 AND headers = $9::text::jsonb AND properties = $10::text::jsonb

-- name: remote_delete
-- Forget one; no row where there was none.
DELETE FROM remote WHERE tenant = $1 AND kind = $2 AND name = $3 RETURNING true

-- name: job_items_sum
-- The sum of what the parts of a job that went well have noted as numbers.
SELECT coalesce(sum(comment::bigint), 0)::bigint FROM job_item WHERE job = $1 AND status = 0 AND comment ~ '^[0-9]{1,15}$'

-- name: job_items_received
-- The sums of what the parts of a job that retrieves have noted: how many instances were stored, and how many could not be.
SELECT coalesce(sum(split_part(comment, ' ', 1)::bigint), 0)::bigint AS received, coalesce(sum(split_part(comment, ' ', 2)::bigint), 0)::bigint AS failed
FROM job_item WHERE job = $1 AND status = 0

-- name: retrieval_begun
-- Whether something of a study, or of its series $3, is stored.
SELECT EXISTS (SELECT FROM study t JOIN series s ON s.study = t.id WHERE t.tenant = $1 AND t.study_uid = $2 AND s.series_uid = coalesce($3, s.series_uid))
