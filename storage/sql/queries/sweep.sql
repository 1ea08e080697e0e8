-- name: sweep_claim
-- Take over intents whose lease ended.
SELECT sweep_claim($1)

-- name: sweep_due_intents
-- Claimed intents whose quarantine is over: their objects may be deleted. $2: those that could not be.
SELECT key FROM intent WHERE claimed_at < now() - $1::interval AND key <> ALL ($2) ORDER BY claimed_at LIMIT $3

-- name: sweep_forget_intents
-- After the objects are gone.
DELETE FROM intent WHERE key = ANY ($1) AND claimed_at IS NOT NULL

-- name: sweep_due_tombs
-- Objects that no row points at any more and whose grace is over. $1: those that could not be deleted.
SELECT key FROM tomb WHERE not_before < now() AND key <> ALL ($1) ORDER BY not_before LIMIT $2

-- name: sweep_forget_tombs
-- After the objects are gone.
DELETE FROM tomb WHERE key = ANY ($1)

-- name: analyze_young
-- Statistics for tables that are being filled.
SELECT analyze_young($1)
