-- name: ingest_intent
-- Announce a batch of objects before they are put; which of the files are stored already.
SELECT ordinal, stored_key FROM ingest_intent($1, $2, $3, $4, $5, $6)

-- name: ingest_commit
-- Make a batch visible, see functions/ingest.sql.
SELECT sop_uid, outcome, stored_key FROM ingest_commit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
    $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33)

-- name: ingest_renounce
-- Give up objects whose PUT failed or was not needed.
SELECT ingest_renounce($1, $2)

-- name: ingest_open_intents
-- First half of the verdict on a COMMIT whose answer was lost: the row locks wait for the old backend to end. What is still here was not committed.
SELECT key FROM intent WHERE key = ANY ($1) ORDER BY key FOR UPDATE

-- name: ingest_stored_keys
-- Second half, in a later snapshot: these were committed.
SELECT object_key FROM instance WHERE tenant = $1 AND sop_uid = ANY ($2) AND object_key = ANY ($3)

-- name: instance_to_compare
-- The stored instance that a new one is compared with.
SELECT object_key, object_offset, object_size, meta_size, dataset_sha256 FROM instance WHERE tenant = $1 AND sop_uid = $2

-- name: set_dataset_digest
-- Computed when it was first needed; an object never changes, so it stays true for its key.
UPDATE instance SET dataset_sha256 = $4 WHERE tenant = $1 AND sop_uid = $2 AND object_key = $3

-- name: shared_of_series
-- The attributes that a series' instances share, for the writer's cache.
SELECT series_uid, shared_id, shared FROM series WHERE tenant = $1 AND series_uid = ANY ($2)
