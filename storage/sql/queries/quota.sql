-- name: quota_totals
-- What a tenant has stored.
SELECT (SELECT coalesce(sum(bytes), 0)::bigint FROM study WHERE tenant = $1)
       + (SELECT coalesce(sum(object_size), 0)::bigint FROM attachment WHERE tenant = $1) AS bytes,
       (SELECT count(*) FROM patient WHERE tenant = $1) AS patients

-- name: quota_patient
-- Whether a patient is stored already.
SELECT EXISTS (SELECT FROM patient WHERE tenant = $1 AND patient_id = $2)

-- name: recycle_candidates
-- The patients that changed longest ago and whose deletion brings the tenant below $2 bytes and $3 patients (NULL: no limit).
WITH used AS (
    SELECT coalesce(sum(t.bytes), 0) + (SELECT coalesce(sum(object_size), 0) FROM attachment WHERE tenant = $1) AS bytes,
           (SELECT count(*) FROM patient WHERE tenant = $1) AS patients
    FROM study t WHERE t.tenant = $1
), aged AS (
    SELECT p.id, p.orthanc_id, p.protected, max(t.changed_at) AS at, sum(t.bytes) AS bytes
    FROM used, patient p JOIN study t ON t.patient = p.id
    WHERE p.tenant = $1 AND (used.bytes > $2::bigint OR used.patients > $3::bigint) GROUP BY p.id
), ranked AS (
    SELECT *, sum(bytes) OVER (ORDER BY at, id) - bytes AS freed, row_number() OVER (ORDER BY at, id) - 1 AS gone
    FROM aged WHERE NOT protected AND id <> (SELECT id FROM aged ORDER BY at DESC, id DESC LIMIT 1)
)
SELECT r.orthanc_id FROM ranked r, used WHERE used.bytes - r.freed > $2::bigint OR used.patients - r.gone > $3::bigint
ORDER BY r.at, r.id LIMIT $4

-- name: recycle
-- See functions/delete.sql.
SELECT recycle($1, $2, $3)
