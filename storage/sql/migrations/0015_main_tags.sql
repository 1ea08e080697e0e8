-- The attributes that descriptions of resources show, as finished DICOM JSON: to write a whole jsonb as text takes longer than all else
-- that a list of 500 studies needs. The tags are those of MAIN_TAGS in dicomweb/orthanc_tags.py; `more`: members that come from elsewhere.
CREATE FUNCTION main_tags(attributes jsonb, tags text[], more text DEFAULT NULL) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT '{' || concat_ws(',', string_agg(format('"%s":%s', key, value), ','), more) || '}' FROM jsonb_each(attributes) WHERE key = ANY (tags)
$$;

ALTER TABLE patient ADD COLUMN main_tags text NOT NULL GENERATED ALWAYS AS (main_tags(attributes,
    '{00100010,00100020,00100030,00100040,00101000}')) STORED;
ALTER TABLE study ADD COLUMN main_tags text NOT NULL GENERATED ALWAYS AS (main_tags(attributes,
    '{00100010,00100020,00100030,00100040,00101000,00080020,00080030,00080050,00080080,00080090,00080201,00081030,0020000D,00200010,00321032,00321060}')) STORED;
-- ImageOrientationPatient is an attribute of instances; the series shows what they share, its numbers as they were written.
ALTER TABLE series ADD COLUMN main_tags text NOT NULL GENERATED ALWAYS AS (main_tags(attributes,
    '{00080021,00080031,00080060,00080070,00081010,0008103E,00081070,00180010,00180015,00180024,00181030,00181090,00181400,0020000E,00200011,00200105,00201002,00400244,00400245,00400254,00400275,00540081,00540101,00541000}',
    substring(shared FROM '(?n)^"00200037":.*$'))) STORED;
