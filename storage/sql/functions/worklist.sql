-- workitem_state: the content of a UPS State Report that tells where a step is (PS3.4 table CC.2.4-1).
CREATE OR REPLACE FUNCTION workitem_state(attributes jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_build_object('00404041', attributes->'00404041', '00741000', attributes->'00741000')
$$;

-- workitem_row: the attributes of a step that an answer holds, as text in the order of the tags.
CREATE OR REPLACE FUNCTION workitem_row(attributes jsonb, tags text[]) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(jsonb_object_agg(key, value), '{}')::text FROM jsonb_each(attributes) WHERE key = ANY (tags)
$$;
