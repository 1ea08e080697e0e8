-- scheduled_in_state: a worklist item with another ScheduledProcedureStepStatus (0040,0020).
CREATE OR REPLACE FUNCTION scheduled_in_state(attributes jsonb, status text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_set(attributes, '{00400100,Value,0,00400020}', jsonb_build_object('vr', 'CS', 'Value', jsonb_build_array(status)))
$$;
