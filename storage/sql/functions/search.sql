-- dicom_values: the values of a DICOM JSON element as text; a person name as its groups joined by "=".
CREATE OR REPLACE FUNCTION dicom_values(element jsonb) RETURNS SETOF text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE jsonb_typeof(v)
               WHEN 'object' THEN concat_ws('=', v->>'Alphabetic', v->>'Ideographic', v->>'Phonetic')
               ELSE v #>> '{}' END
    FROM jsonb_array_elements(CASE jsonb_typeof(element->'Value') WHEN 'array' THEN element->'Value' ELSE '[]' END) v
$$;

-- dicom_items: the items of a sequence element.
CREATE OR REPLACE FUNCTION dicom_items(element jsonb) RETURNS SETOF jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT v FROM jsonb_array_elements(CASE WHEN element->>'vr' = 'SQ' AND jsonb_typeof(element->'Value') = 'array' THEN element->'Value' ELSE '[]' END) v
$$;

-- dicom_number: a value as a number, NULL when it is none.
CREATE OR REPLACE FUNCTION dicom_number(value text) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN value ~ '^\s*[-+]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][-+]?\d{1,3})?\s*$' THEN value::numeric END
$$;

-- members_of: the members of series.shared as one object.
CREATE OR REPLACE FUNCTION members_of(shared text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('{' || replace(shared, E'\n', ',') || '}')::jsonb
$$;

-- qido_study, qido_series, qido_instance: a level's row as finished DICOM JSON (PS3.18 10.6.3.3), from the stored pieces and what is computed;
-- tags in ascending order. `base` is the DICOMweb root as JSON string content. Simple expressions, which the planner inlines.
CREATE OR REPLACE FUNCTION qido_study(t study, base text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT concat('{', t.summary[1],
        '"00080056":{"vr":"CS","Value":["ONLINE"]},"00080061":{"vr":"CS","Value":', array_to_json(t.modalities),
        '},"00080062":{"vr":"UI","Value":', array_to_json(t.sop_classes), '},', t.summary[2],
        '"00081190":{"vr":"UR","Value":["', base, '/studies/', t.study_uid, '"]},', t.summary[3],
        '"00201206":{"vr":"IS","Value":[', t.series_count, ']},"00201208":{"vr":"IS","Value":[', t.instance_count, ']}',
        t.summary[4], '}')
$$;

CREATE OR REPLACE FUNCTION qido_series(s series, study_uid text, base text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT concat('{', s.summary[1], '"00080056":{"vr":"CS","Value":["ONLINE"]},', s.summary[2],
        '"00081190":{"vr":"UR","Value":["', base, '/studies/', study_uid, '/series/', s.series_uid, '"]},', s.summary[3],
        '"00201209":{"vr":"IS","Value":[', s.instance_count, ']}', s.summary[4], '}')
$$;

CREATE OR REPLACE FUNCTION qido_instance(i instance, study_uid text, series_uid text, base text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT concat('{"00080005":{"vr":"CS","Value":["ISO_IR 192"]},"00080016":{"vr":"UI","Value":["', i.sop_class,
        '"]},"00080018":{"vr":"UI","Value":["', i.sop_uid, '"]},"00080056":{"vr":"CS","Value":["ONLINE"]}',
        ',"00081190":{"vr":"UR","Value":["', base, '/studies/', study_uid, '/series/', series_uid, '/instances/', i.sop_uid, '"]}',
        ',"00083002":{"vr":"UI","Value":["', i.transfer_syntax, '"]}',
        ',"00200013":{"vr":"IS","Value":[' || i.instance_number || ']}',
        ',"00280008":{"vr":"IS","Value":[' || i.number_of_frames || ']}',
        ',"00280010":{"vr":"US","Value":[' || i.rows || ']}', ',"00280011":{"vr":"US","Value":[' || i.columns || ']}',
        ',"00280100":{"vr":"US","Value":[' || i.bits_allocated || ']}', '}')
$$;
