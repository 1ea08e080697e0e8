-- name: derived_claim
-- The slide that waits longest since it changed last, at least $3; nobody else looks at it until the lease ends.
UPDATE derived SET worker = $1, lease_until = now() + $2::interval, tries = tries + 1
WHERE (tenant, series_uid) IN (
    SELECT tenant, series_uid FROM derived WHERE due <= now() - $3::interval AND lease_until < now() ORDER BY due LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING tenant, series_uid, due, tries

-- name: derived_by_others
-- Slides whose levels were not made by this version of the maker, whose mark ($1) begins a fingerprint of $2 bytes, wait for the worker.
UPDATE derived SET due = now(), tries = 0
WHERE due IS NULL AND fingerprint IS NOT NULL AND (octet_length(fingerprint) <> $2 OR substring(fingerprint FOR octet_length($1::bytea)) <> $1::bytea)

-- name: derived_renew
-- The worker is still at it.
UPDATE derived SET lease_until = now() + $4::interval WHERE tenant = $1 AND series_uid = $2 AND worker = $3

-- name: derived_keep
-- What is there is right.
UPDATE derived SET due = nullif(due, $4), worker = NULL, lease_until = '-infinity', tries = 0
WHERE tenant = $1 AND series_uid = $2 AND worker = $3

-- name: derived_pause
-- What was claimed could not be done now, through no fault of its own: the lease stays, so that others come first.
UPDATE derived SET tries = tries - 1 WHERE tenant = $1 AND series_uid = $2 AND worker = $3

-- name: derive
-- What was made, see functions/derived.sql.
SELECT derive($1, $2, $3, $4, $5, $6, $7, $8, $9)

-- name: derived_lost
-- The object of the levels is gone or damaged: they do not count from now on, and are to be made anew. The series gets a new version, as its
-- levels are numbered without them.
WITH lost AS (
    UPDATE derived SET due = now(), fingerprint = NULL, tries = 0 WHERE tenant = $1 AND series_uid = $2 AND object_key = $3 AND fingerprint IS NOT NULL
    RETURNING tenant, series_uid
)
UPDATE series s SET version = nextval('version') FROM lost WHERE s.tenant = lost.tenant AND s.series_uid = lost.series_uid

-- name: derived_records
-- A stretch of the table of tiles: $3 bytes from byte $4 on, counted from 1.
SELECT substring(frame_table FROM $4 FOR $3) FROM derived WHERE tenant = $1 AND object_key = $2
