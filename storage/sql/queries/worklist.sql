-- name: worklist_globals
-- The generation of a worklist, and who is subscribed to it with a filter.
SELECT g.generation, s.aet, s.deletion_lock, s.filter::text AS filter
FROM worklist g LEFT JOIN worklist_subscription s ON s.tenant = g.tenant AND s.filtered WHERE g.tenant = $1

-- name: worklist_begin
-- A tenant that was added after the migration.
INSERT INTO worklist (tenant) VALUES ($1) ON CONFLICT DO NOTHING

-- name: workitem_get
SELECT attributes::text FROM workitem WHERE tenant = $1 AND uid = $2

-- name: workitem_gone
SELECT EXISTS (SELECT FROM workitem_gone WHERE tenant = $1 AND uid = $2)

-- name: workitem_open
-- Before a change: what it is compared with.
SELECT w.version, w.transaction_uid, w.attributes::text AS attributes, g.generation
FROM workitem w JOIN worklist g ON g.tenant = w.tenant WHERE w.tenant = $1 AND w.uid = $2

-- name: workitem_change
-- Compare and set, with the events ($7, $8) for all who are subscribed. No row in `changed`: somebody else was faster.
WITH guard AS (SELECT FROM worklist WHERE tenant = $1 AND generation = $4 FOR SHARE),
changed AS (
    UPDATE workitem SET version = version + 1, changed_at = now(), transaction_uid = $5, attributes = $6::jsonb,
        finished_at = CASE WHEN $6::jsonb #>> '{00741000,Value,0}' IN ('COMPLETED', 'CANCELED') THEN now() END
    FROM guard WHERE tenant = $1 AND uid = $2 AND version = $3 RETURNING uid),
told AS (
    INSERT INTO workitem_event (tenant, aet, uid, kind, content)
    SELECT s.tenant, s.aet, s.uid, e.kind, e.content::jsonb
    FROM changed JOIN workitem_subscription s ON s.tenant = $1 AND s.uid = changed.uid
        CROSS JOIN unnest($7::smallint[], $8::text[]) WITH ORDINALITY AS e(kind, content, n)
    ORDER BY e.n RETURNING aet)
SELECT (SELECT count(*) FROM changed) AS changed, ARRAY(SELECT DISTINCT aet FROM told) AS told

-- name: workitem_subscribe
-- To one step; the subscriber gets its state. The step's version is raised, so that a change that did not see the subscription starts again.
WITH step AS (UPDATE workitem SET version = version + 1 WHERE tenant = $1 AND uid = $2 RETURNING *),
known AS (INSERT INTO subscriber (tenant, aet) SELECT tenant, $3 FROM step ON CONFLICT DO NOTHING),
subscribed AS (
    INSERT INTO workitem_subscription (tenant, uid, aet, deletion_lock) SELECT tenant, uid, $3, $4 FROM step
    ON CONFLICT (tenant, uid, aet) DO UPDATE SET deletion_lock = excluded.deletion_lock)
INSERT INTO workitem_event (tenant, aet, uid, kind, content)
SELECT tenant, $3, uid, 1, workitem_state(attributes) FROM step RETURNING 1

-- name: workitem_unsubscribe
DELETE FROM workitem_subscription WHERE tenant = $1 AND uid = $2 AND aet = $3 RETURNING 1

-- name: worklist_subscribe
-- The first statement of a transaction; the second subscribes to the steps that exist. From here to its end nobody changes a step.
WITH raised AS (UPDATE worklist SET generation = generation + 1 WHERE tenant = $1 RETURNING tenant),
known AS (INSERT INTO subscriber (tenant, aet) SELECT tenant, $2 FROM raised ON CONFLICT DO NOTHING)
INSERT INTO worklist_subscription (tenant, aet, filtered, deletion_lock, filter) SELECT tenant, $2, $3, $4, $5::jsonb FROM raised
ON CONFLICT (tenant, aet, filtered) DO UPDATE SET deletion_lock = excluded.deletion_lock, filter = excluded.filter

-- name: worklist_subscriptions
-- How many other subscriptions there are to the whole of a worklist.
SELECT count(*) FROM worklist_subscription WHERE tenant = $1 AND (aet, filtered) <> ($2, $3)

-- name: worklist_unsubscribe
-- From everything: the worklist and each step (PS3.4 table CC.2.3-2).
WITH raised AS (UPDATE worklist SET generation = generation + 1 WHERE tenant = $1),
general AS (DELETE FROM worklist_subscription WHERE tenant = $1 AND aet = $2 AND filtered = $3 RETURNING 1),
single AS (DELETE FROM workitem_subscription WHERE tenant = $1 AND aet = $2 RETURNING 1)
SELECT (SELECT count(*) FROM general) + (SELECT count(*) FROM single)

-- name: worklist_suspend
-- From steps that are created later; those that exist stay subscribed.
WITH raised AS (UPDATE worklist SET generation = generation + 1 WHERE tenant = $1)
DELETE FROM worklist_subscription WHERE tenant = $1 AND aet = $2 AND filtered = $3 RETURNING 1

-- name: worklist_expire
-- Finished steps whose time is over and that nobody locks, $2 at most.
WITH due AS (
    SELECT tenant, uid FROM workitem w WHERE finished_at < now() - $1::interval AND NOT EXISTS (
        SELECT FROM workitem_subscription s WHERE s.tenant = w.tenant AND s.uid = w.uid AND s.deletion_lock)
    ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED),
removed AS (DELETE FROM workitem w USING due WHERE w.tenant = due.tenant AND w.uid = due.uid),
unsubscribed AS (DELETE FROM workitem_subscription s USING due WHERE s.tenant = due.tenant AND s.uid = due.uid),
remembered AS (INSERT INTO workitem_gone (tenant, uid) SELECT tenant, uid FROM due ON CONFLICT (tenant, uid) DO UPDATE SET gone_at = now()),
forgotten AS (DELETE FROM workitem_gone WHERE gone_at < now() - $1::interval)
SELECT count(*) FROM due

-- name: channel_open
-- This connection is where the AE listens from now on.
INSERT INTO subscriber (tenant, aet, owner) VALUES ($1, $2, $3)
ON CONFLICT (tenant, aet) DO UPDATE SET owner = excluded.owner, opened_at = now()

-- name: channel_close
-- Nobody listens any more, unless another connection has taken over.
UPDATE subscriber SET owner = NULL, opened_at = now() WHERE tenant = $1 AND aet = $2 AND owner = $3

-- name: channel_events
-- The next events of a channel but for those in $4; no row at all: another connection owns it now. One row without id: nothing waits.
SELECT e.id, e.uid, e.kind, e.content::text AS content FROM subscriber s LEFT JOIN LATERAL (
    SELECT * FROM workitem_event w WHERE w.tenant = s.tenant AND w.aet = s.aet AND w.id <> ALL ($4::bigint[]) ORDER BY w.id LIMIT $5) e ON true
WHERE s.tenant = $1 AND s.aet = $2 AND s.owner = $3 ORDER BY e.id

-- name: channel_settle
-- Events that were sent long enough ago.
DELETE FROM workitem_event WHERE tenant = $1 AND aet = $2 AND id = ANY ($3::bigint[])

-- name: channels_due
-- Which of this process's channels ($1, $2) have events behind the last one that was sent ($4), or another owner than $3. An event that was
-- committed after a later one is found when those that were sent are settled.
SELECT c.n FROM unnest($1::integer[], $2::text[], $3::uuid[], $4::bigint[]) WITH ORDINALITY AS c(tenant, aet, owner, sent, n)
WHERE EXISTS (SELECT FROM workitem_event e WHERE e.tenant = c.tenant AND e.aet = c.aet AND e.id > c.sent)
    OR EXISTS (SELECT FROM subscriber s WHERE s.tenant = c.tenant AND s.aet = c.aet AND s.owner <> c.owner)

-- name: events_expire
-- Events that are too old, $2 at most.
WITH old AS (SELECT tenant, aet, id FROM workitem_event WHERE created_at < now() - $1::interval ORDER BY created_at LIMIT $2),
gone AS (DELETE FROM workitem_event e USING old WHERE e.tenant = old.tenant AND e.aet = old.aet AND e.id = old.id)
SELECT count(*) FROM old

-- name: events_trim
-- All but the newest $1 of each subscriber.
DELETE FROM workitem_event e USING subscriber s CROSS JOIN LATERAL (
    SELECT id FROM workitem_event w WHERE w.tenant = s.tenant AND w.aet = s.aet ORDER BY id DESC OFFSET $1 LIMIT 1) oldest
WHERE e.tenant = s.tenant AND e.aet = s.aet AND e.id <= oldest.id

-- name: subscribers_forget
-- Those that are subscribed to nothing, for whom nothing waits, and who have not listened lately.
DELETE FROM subscriber s WHERE owner IS NULL AND opened_at < now() - $1::interval
    AND NOT EXISTS (SELECT FROM workitem_event e WHERE e.tenant = s.tenant AND e.aet = s.aet)
    AND NOT EXISTS (SELECT FROM workitem_subscription w WHERE w.tenant = s.tenant AND w.aet = s.aet)
    AND NOT EXISTS (SELECT FROM worklist_subscription w WHERE w.tenant = s.tenant AND w.aet = s.aet)

-- name: announce_restart
-- To everybody who is subscribed to anything: the archive is back, with all its lists.
INSERT INTO workitem_event (tenant, aet, uid, kind, content)
SELECT s.tenant, s.aet, $1, $2, $3::jsonb FROM subscriber s
WHERE EXISTS (SELECT FROM workitem_subscription w WHERE w.tenant = s.tenant AND w.aet = s.aet)
    OR EXISTS (SELECT FROM worklist_subscription w WHERE w.tenant = s.tenant AND w.aet = s.aet)

-- name: workitem_create
-- A new step, unless the worklist has other subscriptions by now (`current` 0) or the UID is taken (`created` 0), with its subscribers
-- and the events ($5, $6) for them.
WITH guard AS (SELECT FROM worklist WHERE tenant = $1::integer AND generation = $2::bigint FOR SHARE),
t AS (
    INSERT INTO workitem (tenant, uid, attributes) SELECT $1, $3::text, $4::jsonb FROM guard
    ON CONFLICT (tenant, uid) DO NOTHING RETURNING *),
wanted AS (
    SELECT s.aet, s.deletion_lock FROM t JOIN worklist_subscription s ON s.tenant = t.tenant AND NOT s.filtered
    /* or filtered */),
subscribed AS (
    INSERT INTO workitem_subscription (tenant, uid, aet, deletion_lock)
    SELECT $1, $3, aet, bool_or(deletion_lock) FROM wanted GROUP BY aet RETURNING aet),
told AS (
    INSERT INTO workitem_event (tenant, aet, uid, kind, content)
    SELECT $1, s.aet, $3, e.kind, e.content::jsonb
    FROM subscribed s CROSS JOIN unnest($5::smallint[], $6::text[]) WITH ORDINALITY AS e(kind, content, n)
    ORDER BY e.n RETURNING aet)
SELECT (SELECT count(*) FROM guard) AS current, (SELECT count(*) FROM t) AS created, ARRAY(SELECT DISTINCT aet FROM told) AS told

-- name: worklist_subscribe_existing
-- The second statement of a transaction. With a deletion lock the subscriber gets the state of each step (PS3.4 CC.2.4.3), of the newest $4.
WITH subscribed AS (
    INSERT INTO workitem_subscription (tenant, uid, aet, deletion_lock)
    SELECT t.tenant, t.uid, $2::text, $3::boolean FROM workitem t WHERE t.tenant = $1::integer /* and filter */
    ON CONFLICT DO NOTHING RETURNING tenant, uid)
INSERT INTO workitem_event (tenant, aet, uid, kind, content)
SELECT tenant, $2, uid, 1, workitem_state(attributes) FROM (
    SELECT w.* FROM subscribed s JOIN workitem w ON w.tenant = s.tenant AND w.uid = s.uid WHERE $3 ORDER BY w.id DESC LIMIT $4::bigint) newest
ORDER BY id
