-- name: commitment_begin
-- See functions/commitment.sql.
SELECT commitment_begin($1, $2::text::jsonb, $3, $4, $5)

-- name: commitment_of
-- The request of a Transaction UID.
SELECT id FROM job WHERE tenant = $1 AND kind = 'StorageCommitmentScp' AND once = $2

-- name: commitment_hand_over
-- Whoever works on jobs may report now.
UPDATE job SET run_after = now() WHERE id = $1 AND state = 'pending'

-- name: commitment_items
-- The instances of a job: SOP class and SOP instance, with a blank between them.
SELECT content FROM job_item WHERE job = $1 ORDER BY number

-- name: commitment_located
-- Where those of the instances $2 lie whose studies have all of the labels $3.
SELECT i.sop_uid, i.sop_class, i.object_key, i.object_offset, i.object_size
FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study
WHERE i.tenant = $1 AND i.sop_uid = ANY ($2) AND NOT EXISTS (
    SELECT FROM unnest($3::text[]) AS wanted (label)
    WHERE (t.orthanc_id, wanted.label) NOT IN (SELECT l.orthanc_id, l.label FROM label l WHERE l.tenant = $1 AND l.level = 'study' AND l.orthanc_id = t.orthanc_id))

-- name: commitment_expire
-- Transactions that ended longer ago than $1 are forgotten.
DELETE FROM job WHERE kind = 'StorageCommitmentScp' AND finished_at < now() - $1::interval
