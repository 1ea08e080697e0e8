-- name: scheduled_create
INSERT INTO scheduled_step (tenant, id, attributes, stations, name_fold, labels) VALUES ($1, $2, $3::jsonb, $4, $5, $6)

-- name: scheduled_get
-- An item that has all of the labels $3.
SELECT attributes::text AS attributes, version, created_at, labels FROM scheduled_step WHERE tenant = $1 AND id = $2 AND labels @> $3

-- name: scheduled_replace
-- Compare and set: a performed step may have changed the status meanwhile.
UPDATE scheduled_step SET attributes = $4::jsonb, stations = $5, name_fold = $6, labels = $7, version = version + 1, changed_at = now()
WHERE tenant = $1 AND id = $2 AND version = $3 RETURNING 1

-- name: scheduled_delete
DELETE FROM scheduled_step WHERE tenant = $1 AND id = $2 AND labels @> $3 RETURNING 1

-- name: scheduled_expire
-- Finished steps whose time is over, and steps that nobody has touched for long and whose date is long past: $3 at most. $1 and $2 are the
-- two times; an unknown date is past.
WITH due AS (
    SELECT tenant, id FROM scheduled_step WHERE changed_at < now() - least($1::interval, $2::interval)
        AND CASE WHEN status IN ('COMPLETED', 'DISCONTINUED', 'CANCELED') THEN changed_at < now() - $1::interval
            ELSE changed_at < now() - $2::interval AND start < to_char(now() - $2::interval, 'YYYYMMDD') END
    ORDER BY changed_at LIMIT $3 FOR UPDATE SKIP LOCKED),
removed AS (DELETE FROM scheduled_step s USING due WHERE s.tenant = due.tenant AND s.id = due.id)
SELECT count(*) FROM due

-- name: performed_create
-- A performed step ($2, $3), and STARTED for the scheduled ones that it belongs to ($4 study, $5 step ID, $6 accession number; the last two
-- may be ''), as far as they have all of its labels ($8). No row in `created`: there is such an instance. Who wants to hear of it ($7: the
-- event) does, by a job each.
WITH created AS (
    INSERT INTO performed_step (tenant, uid, attributes, labels) VALUES ($1, $2, $3::jsonb, $8) ON CONFLICT DO NOTHING RETURNING 1),
followed AS (
    UPDATE scheduled_step s SET attributes = scheduled_in_state(attributes, 'STARTED'), version = version + 1, changed_at = now()
    FROM created, unnest($4::text[], $5::text[], $6::text[]) AS a(study_uid, step_id, accession)
    WHERE s.tenant = $1 AND s.labels @> $8 AND s.study_uid = a.study_uid AND (a.step_id = '' OR s.step_id = a.step_id)
        AND (a.step_id <> '' OR a.accession = '' OR s.accession = a.accession)
    RETURNING 1),
told AS (
    INSERT INTO job (tenant, kind, content)
    SELECT m.tenant, 'MppsNotification', jsonb_build_object('modality', m.name, 'uid', $2::text, 'event', $7::integer)
    FROM created, modality m WHERE m.tenant = $1 AND m.notify_mpps)
SELECT (SELECT count(*) FROM created) AS created, (SELECT count(*) FROM followed) AS followed

-- name: performed_get
-- A step that has all of the labels $3.
SELECT attributes::text AS attributes, version FROM performed_step WHERE tenant = $1 AND uid = $2 AND labels @> $3

-- name: performed_change
-- Compare and set, with the status ($5, or '') of the scheduled steps that it belongs to and that have its labels, whoever sets it; told
-- as above ($9: the event).
WITH changed AS (
    UPDATE performed_step SET attributes = $4::jsonb, version = version + 1, changed_at = now()
    WHERE tenant = $1 AND uid = $2 AND version = $3 RETURNING labels),
followed AS (
    UPDATE scheduled_step s SET attributes = scheduled_in_state(attributes, $5), version = version + 1, changed_at = now()
    FROM changed, unnest($6::text[], $7::text[], $8::text[]) AS a(study_uid, step_id, accession)
    WHERE $5::text <> '' AND s.tenant = $1 AND s.labels @> changed.labels AND s.study_uid = a.study_uid AND (a.step_id = '' OR s.step_id = a.step_id)
        AND (a.step_id <> '' OR a.accession = '' OR s.accession = a.accession)
    RETURNING 1),
told AS (
    INSERT INTO job (tenant, kind, content)
    SELECT m.tenant, 'MppsNotification', jsonb_build_object('modality', m.name, 'uid', $2::text, 'event', $9::integer)
    FROM changed, modality m WHERE m.tenant = $1 AND m.notify_mpps)
SELECT (SELECT count(*) FROM changed) AS changed, (SELECT count(*) FROM followed) AS followed

-- name: performed_expire
-- Steps whose time ($1) is over: $2 at most; told as above ($3: the event).
WITH due AS (
    SELECT tenant, uid FROM performed_step WHERE changed_at < now() - $1::interval ORDER BY changed_at LIMIT $2 FOR UPDATE SKIP LOCKED),
removed AS (DELETE FROM performed_step p USING due WHERE p.tenant = due.tenant AND p.uid = due.uid),
told AS (
    INSERT INTO job (tenant, kind, content)
    SELECT m.tenant, 'MppsNotification', jsonb_build_object('modality', m.name, 'uid', due.uid, 'event', $3::integer)
    FROM due, modality m WHERE m.tenant = due.tenant AND m.notify_mpps)
SELECT count(*) FROM due
