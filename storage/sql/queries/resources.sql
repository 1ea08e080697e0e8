-- name: delete_resources
-- Delete at study, series or instance level, see functions/delete.sql.
SELECT delete_resources($1, $2, $3, $4, $5)

-- name: statistics
-- Totals from the counts that the parents keep.
SELECT (SELECT count(*) FROM patient WHERE tenant = $1) AS patients, count(*) AS studies, coalesce(sum(series_count), 0)::bigint AS series,
       coalesce(sum(instance_count), 0)::bigint AS instances, coalesce(sum(bytes), 0)::bigint AS bytes
FROM study WHERE tenant = $1

-- name: ready
-- The database answers and takes writes.
SELECT current_setting('transaction_read_only') = 'off'
