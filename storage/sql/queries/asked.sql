-- name: asked_query_put
-- A query with its answers; all but the $6 youngest are forgotten.
WITH old AS (
    DELETE FROM asked_query WHERE tenant = $1
        AND id IN (SELECT id FROM asked_query WHERE tenant = $1 ORDER BY created_at DESC, id DESC OFFSET $6 - 1)
), made AS (
    INSERT INTO asked_query (tenant, modality, content, identifier) VALUES ($1, $2, $3::text::jsonb, $4) RETURNING id
), answered AS (
    INSERT INTO asked_answer (query, number, content)
    SELECT made.id, n - 1, c FROM made, unnest($5::bytea[]) WITH ORDINALITY AS a (c, n)
)
SELECT id FROM made

-- name: asked_queries
-- The queries that are kept, the oldest first.
SELECT id FROM asked_query WHERE tenant = $1 ORDER BY created_at, id

-- name: asked_query_get
-- One query.
SELECT modality, content::text, identifier, (SELECT count(*) FROM asked_answer WHERE query = id)::integer AS answers
FROM asked_query WHERE tenant = $1 AND id = $2

-- name: asked_query_delete
-- Forget one.
DELETE FROM asked_query WHERE tenant = $1 AND id = $2 RETURNING true

-- name: asked_answers
-- Answers to a query from number $3 on.
SELECT a.content FROM asked_answer a JOIN asked_query q ON q.id = a.query
WHERE q.tenant = $1 AND q.id = $2 AND a.number >= $3 ORDER BY a.number LIMIT $4

-- name: asked_commitment_put
-- Storage commitment is about to be asked for.
WITH made AS (
    INSERT INTO asked_commitment (transaction_uid, tenant, remote_aet) VALUES ($2, $1, $3) ON CONFLICT DO NOTHING RETURNING transaction_uid
)
INSERT INTO asked_commitment_item (transaction_uid, sop_uid, sop_class)
SELECT transaction_uid, uid, class FROM made, unnest($4::text[], $5::text[]) AS i (uid, class) ON CONFLICT DO NOTHING

-- name: asked_commitment_items
-- What a commitment is asked for.
SELECT i.sop_class, i.sop_uid FROM asked_commitment_item i JOIN asked_commitment c USING (transaction_uid)
WHERE c.tenant = $1 AND transaction_uid = $2 ORDER BY i.sop_uid

-- name: asked_commitment_report
-- The answer of $3 (reasons of failures, 0: committed); no row: nobody asked for it.
WITH known AS (
    UPDATE asked_commitment SET answered_at = now() WHERE tenant = $1 AND transaction_uid = $2 AND ($3::text IS NULL OR remote_aet = $3)
    RETURNING transaction_uid
), said AS (
    UPDATE asked_commitment_item i SET reason = a.reason FROM known, unnest($4::text[], $5::integer[]) AS a (uid, reason)
    WHERE i.transaction_uid = known.transaction_uid AND i.sop_uid = a.uid
)
SELECT transaction_uid FROM known

-- name: asked_commitment_get
-- One request for commitment.
SELECT remote_aet, answered_at IS NOT NULL AS answered FROM asked_commitment WHERE tenant = $1 AND transaction_uid = $2

-- name: asked_commitment_results
-- What became of its instances.
SELECT sop_class, sop_uid, reason FROM asked_commitment_item WHERE transaction_uid = $1 ORDER BY sop_uid

-- name: asked_commitment_expire
-- Those that are older than $1 are forgotten.
WITH gone AS (DELETE FROM asked_commitment WHERE created_at < now() - $1::interval RETURNING 1) SELECT count(*) FROM gone
