-- name: modality_list
-- The declared application entities of a tenant by name.
SELECT name, aet, host, port, manufacturer, allow, local_aet, timeout, tls, transcoding, retrieve_method, certificates, notify_mpps, username, secret
FROM modality WHERE tenant = $1 ORDER BY name

-- name: modality_get
-- One of them by its name.
SELECT name, aet, host, port, manufacturer, allow, local_aet, timeout, tls, transcoding, retrieve_method, certificates, notify_mpps, username, secret
FROM modality WHERE tenant = $1 AND name = $2

-- name: modality_by_aet
-- All that have an AE title: several hosts may share one.
SELECT name, aet, host, port, manufacturer, allow, local_aet, timeout, tls, transcoding, retrieve_method, certificates, notify_mpps, username, secret
FROM modality WHERE tenant = $1 AND aet = $2 ORDER BY name LIMIT 100

-- name: modality_put
-- Declare or change one; no row where there are $17 already.
INSERT INTO modality (tenant, name, aet, host, port, manufacturer, allow, local_aet, timeout, tls, transcoding, retrieve_method,
    certificates, notify_mpps, username, secret)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16
WHERE (SELECT count(*) FROM modality WHERE tenant = $1 AND name <> $2) < $17
ON CONFLICT (tenant, name) DO UPDATE SET aet = excluded.aet, host = excluded.host, port = excluded.port,
    manufacturer = excluded.manufacturer, allow = excluded.allow, local_aet = excluded.local_aet, timeout = excluded.timeout,
    tls = excluded.tls, transcoding = excluded.transcoding, retrieve_method = excluded.retrieve_method,
    certificates = excluded.certificates, notify_mpps = excluded.notify_mpps,
    username = excluded.username, secret = excluded.secret
RETURNING true

-- name: modality_secrets
-- What we identify ourselves with, to those of all tenants.
SELECT tenant, name, host, port, secret FROM modality WHERE secret IS NOT NULL ORDER BY tenant, name

-- name: modality_seal
-- The same, encrypted otherwise, where it is still what it was.
UPDATE modality SET secret = $4 WHERE tenant = $1 AND name = $2 AND secret = $3

-- name: modality_delete
-- Forget one; no row where there was none.
DELETE FROM modality WHERE tenant = $1 AND name = $2 RETURNING true

-- name: modality_local_aet
-- Whose title that is.
SELECT tenant, labels FROM local_aet WHERE aet = $1

-- name: local_title_list
-- The titles of a tenant.
SELECT aet, labels FROM local_aet WHERE tenant = $1 ORDER BY aet

-- name: local_title_put
-- Take or change a title; no row where another tenant has it, or where there are $4 already.
INSERT INTO local_aet (aet, tenant, labels)
SELECT $2, $1, $3 WHERE (SELECT count(*) FROM local_aet WHERE tenant = $1 AND aet <> $2) < $4
ON CONFLICT (aet) DO UPDATE SET labels = excluded.labels WHERE local_aet.tenant = excluded.tenant
RETURNING true

-- name: local_title_delete
-- Give a title up; no row where there was none.
DELETE FROM local_aet WHERE tenant = $1 AND aet = $2 RETURNING true
