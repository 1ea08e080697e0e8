-- What clients add to resources (labels, metadata, attachments), by tenant, level and Orthanc identifier; when resources have settled; what is
-- protected from recycling; what left the archive.

CREATE TABLE label (
    tenant     integer NOT NULL REFERENCES tenant,
    level      text COLLATE "C" NOT NULL,            -- patient, study, series, instance
    orthanc_id bytea NOT NULL,
    label      text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, orthanc_id, level, label)
);
CREATE INDEX label_by_name ON label (tenant, label, level, orthanc_id);              -- search by label, the list of all labels

-- `kind`: 1024 and above are the clients'; below, what the archive itself notes of a resource (modified from, anonymized from).
CREATE TABLE user_metadata (
    tenant     integer NOT NULL REFERENCES tenant,
    level      text COLLATE "C" NOT NULL,
    orthanc_id bytea NOT NULL,
    kind       integer NOT NULL,
    revision   bigint NOT NULL DEFAULT 0,
    value      text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, orthanc_id, level, kind)
);
CREATE INDEX user_metadata_by_value ON user_metadata (tenant, kind, left(value, 100)); -- search by metadata

CREATE TABLE attachment (
    tenant      integer NOT NULL REFERENCES tenant,
    level       text COLLATE "C" NOT NULL,
    orthanc_id  bytea NOT NULL,
    kind        integer NOT NULL,
    revision    bigint NOT NULL DEFAULT 0,
    object_key  text COLLATE "C" NOT NULL UNIQUE,
    object_size bigint NOT NULL,
    md5         bytea NOT NULL,
    PRIMARY KEY (tenant, orthanc_id, level, kind)
);

-- What is stored already has settled. `stable` becomes false with each instance, and true by the worker when none came for a while; the indexes do
-- not hold `changed_at`, so that the updates of a commit stay within the page.
ALTER TABLE series ADD COLUMN stable boolean NOT NULL DEFAULT true, ADD COLUMN expected_count integer; -- how many instances its first one announces
ALTER TABLE study ADD COLUMN stable boolean NOT NULL DEFAULT true;
ALTER TABLE series ALTER COLUMN stable SET DEFAULT false;
ALTER TABLE study ALTER COLUMN stable SET DEFAULT false;
CREATE INDEX series_unstable ON series (id) WHERE NOT stable;
CREATE INDEX study_unstable ON study (id) WHERE NOT stable;

-- Patients with a study that became unstable since they were last announced as stable. Not a column of the patient: a commit holds its study and
-- must not wait for the patient behind it.
CREATE TABLE unsettled (
    patient bigint PRIMARY KEY,
    since   timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE patient ADD COLUMN protected boolean NOT NULL DEFAULT false;
CREATE INDEX patient_by_id ON patient (tenant, lower(patient_id));                   -- a PatientID in any case of its letters

-- The change feed loses the entries of what was deleted: its numbers go on from here, never from what is left.
CREATE TABLE change_counter (last bigint NOT NULL);
INSERT INTO change_counter SELECT coalesce(max(seq), 0) FROM change;
CREATE INDEX change_of_resource ON change (orthanc_id) WHERE kind <> 'Deleted';
CREATE INDEX change_deleted ON change (at) WHERE kind = 'Deleted';                   -- what may be forgotten
DELETE FROM change c USING change d
WHERE d.kind = 'Deleted' AND c.tenant = d.tenant AND c.level = d.level AND c.orthanc_id = d.orthanc_id AND c.kind <> 'Deleted' AND c.id < d.id;

-- Up to where a client had the feed cleared. The archive's own readers may be behind it, so the rows stay until the worker forgets them.
CREATE TABLE change_cleared (
    tenant integer PRIMARY KEY REFERENCES tenant,
    seq    bigint NOT NULL
);

-- What was sent to others, for /exports.
CREATE TABLE exported (
    tenant     integer NOT NULL REFERENCES tenant,
    seq        bigint NOT NULL,
    level      text NOT NULL,
    orthanc_id bytea NOT NULL,
    modality   text NOT NULL,
    patient_id text NOT NULL,
    study_uid  text NOT NULL,
    series_uid text NOT NULL,
    sop_uid    text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, seq)
);

-- The last number that was given in `exported`; its lock keeps the numbers free of gaps.
CREATE TABLE export_counter (
    tenant integer PRIMARY KEY REFERENCES tenant,
    last   bigint NOT NULL
);

-- What clients of the REST API set while the archive runs, for all its processes.
CREATE TABLE rest_state (
    tenant integer NOT NULL REFERENCES tenant,
    name   text COLLATE "C" NOT NULL,
    value  text NOT NULL,
    PRIMARY KEY (tenant, name)
);
