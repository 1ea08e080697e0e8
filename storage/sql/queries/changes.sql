-- name: number_changes
-- Give changes their public numbers.
SELECT number_changes($1)

-- name: changes_page
-- See functions/changes.sql.
SELECT last, seq, kind, level, orthanc_id, at FROM changes_page($1, $2, $3, $4, $5, $6)

-- name: changes_clear
-- The feed of a tenant begins anew behind what was numbered until now.
INSERT INTO change_cleared (tenant, seq) SELECT $1, last FROM change_counter ON CONFLICT (tenant) DO UPDATE SET seq = excluded.seq

-- name: changes_forget
-- See functions/changes.sql.
SELECT changes_forget($1, $2)

-- name: settle
-- See functions/changes.sql.
SELECT settle($1, $2, $3)

-- name: export_log
-- See functions/changes.sql.
SELECT export_log($1, $2, $3, $4, $5, $6, $7, $8)

-- name: exports_page
-- What was sent, in order, behind number $2.
SELECT seq, level, orthanc_id, modality, patient_id, study_uid, series_uid, sop_uid, at FROM exported WHERE tenant = $1 AND seq > $2 ORDER BY seq LIMIT $3

-- name: exports_last
-- What was sent last.
SELECT seq, level, orthanc_id, modality, patient_id, study_uid, series_uid, sop_uid, at FROM exported WHERE tenant = $1 ORDER BY seq DESC LIMIT 1

-- name: exports_clear
-- Forget what was sent; the numbers go on.
DELETE FROM exported WHERE tenant = $1
