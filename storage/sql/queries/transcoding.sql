-- name: reader_begin
-- The reader begins with what comes from now on, unless it has begun.
INSERT INTO reader (name, seq) SELECT $1, coalesce(max(seq), 0) FROM change ON CONFLICT DO NOTHING

-- name: reader_end
-- Nobody reads any more: should the reader begin again, it begins anew.
DELETE FROM reader WHERE name = $1

-- name: reader_rewind
-- Everything that is stored comes again.
UPDATE reader SET seq = 0, tries = 0 WHERE name = $1

-- name: reader_claim
-- Become the one that reads, or remain it.
UPDATE reader SET worker = $2, lease_until = now() + $3::interval, tries = tries + 1
WHERE name = $1 AND (worker = $2 OR lease_until < now()) AND seq < (SELECT max(seq) FROM change) RETURNING seq, tries

-- name: reader_renew
-- The one that reads still does.
UPDATE reader SET lease_until = now() + $3::interval WHERE name = $1 AND worker = $2

-- name: reader_advance
-- Changes up to $4 are dealt with; nothing where another worker has taken over, or the reader was rewound.
UPDATE reader SET seq = $4, tries = 0, done = done + $5, failed = failed + $6, saved = saved + $7
WHERE name = $1 AND worker = $2 AND seq = $3 RETURNING true

-- name: reader_pause
-- What was claimed could not be done now, through no fault of its own.
UPDATE reader SET tries = 0 WHERE name = $1 AND worker = $2

-- name: reader_totals
-- For the metrics and `anor status`.
SELECT (SELECT coalesce(max(seq), 0) FROM change) - seq AS waiting, done, failed, saved FROM reader WHERE name = $1

-- name: stored_syntaxes
-- Changes in the order of the feed, with the instances that are still there.
SELECT c.seq, c.tenant, i.sop_uid, t.study_uid, s.modality, i.transfer_syntax, i.file_sha256, i.frame_table IS NOT NULL AS has_frames
FROM change c
LEFT JOIN instance i ON c.kind IN ('NewInstance', 'UpdatedInstance') AND i.tenant = c.tenant AND i.sop_uid = c.uid
LEFT JOIN series s ON s.id = i.series
LEFT JOIN study t ON t.id = s.study
WHERE c.seq > $1 ORDER BY c.seq LIMIT $2

-- name: intent_renew
-- The objects are there, and are waiting for their rows: nobody may sweep them yet.
UPDATE intent SET lease_until = greatest(lease_until, now() + $2::interval) WHERE key = ANY ($1) AND claimed_at IS NULL

-- name: exchange_object
-- The same image in another transfer syntax, see functions/transcoding.sql.
SELECT exchange_object($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
