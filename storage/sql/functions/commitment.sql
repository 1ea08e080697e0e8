-- commitment_begin: a job that reports on instances, not before p_after; NULL where the transaction UID is known already.
CREATE OR REPLACE FUNCTION commitment_begin(p_tenant integer, p_content jsonb, p_transaction text, p_after interval, p_items text[]) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    v_id uuid;
BEGIN
    INSERT INTO job (tenant, kind, content, once, run_after)
    VALUES (p_tenant, 'StorageCommitmentScp', p_content, p_transaction, now() + p_after)
    ON CONFLICT DO NOTHING RETURNING id INTO v_id;
    INSERT INTO job_item (job, number, content) SELECT v_id, n, c FROM unnest(p_items) WITH ORDINALITY AS i (c, n) WHERE v_id IS NOT NULL;
    RETURN v_id;
END
$$;
