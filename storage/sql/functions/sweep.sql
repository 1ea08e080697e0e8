-- sweep_claim: intents whose lease ended. From here on no commit can use the key; the object is deleted after the quarantine.
CREATE OR REPLACE FUNCTION sweep_claim(p_limit integer) RETURNS bigint
LANGUAGE sql AS $$
    WITH claimed AS (
        UPDATE intent SET claimed_at = now() WHERE key IN (
            SELECT key FROM intent WHERE claimed_at IS NULL AND lease_until < now() ORDER BY lease_until LIMIT p_limit FOR UPDATE SKIP LOCKED)
        RETURNING 1)
    SELECT count(*) FROM claimed
$$;

-- analyze_young: gathers statistics of tables that doubled since they were analysed last. Autovacuum comes once a minute, and until then the
-- planner of an archive that is just being filled believes that the tenant alone finds one row, and reads all of them.
CREATE OR REPLACE FUNCTION analyze_young(p_rows integer) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_table text;
    v_count bigint := 0;
BEGIN
    FOR v_table IN
        SELECT format('%I.%I', s.schemaname, s.relname) FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
        WHERE s.schemaname = current_schema() AND s.n_live_tup BETWEEN 2 * greatest(c.reltuples, 10) AND p_rows
            AND s.relname IN ('patient', 'study', 'series', 'instance', 'workitem', 'workitem_subscription', 'workitem_event',
                'scheduled_step', 'performed_step')
        ORDER BY s.relname
    LOOP
        EXECUTE 'ANALYZE ' || v_table;
        v_count := v_count + 1;
    END LOOP;
    RETURN v_count;
END
$$;
