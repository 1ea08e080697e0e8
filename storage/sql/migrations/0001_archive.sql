-- The resource tables, the ingest protocol's tables, the change feed and the job table.
-- Every unique key starts with the tenant. Text that is compared, ranged or prefix-searched is COLLATE "C".

CREATE TABLE tenant (
    id   integer PRIMARY KEY,
    name text NOT NULL UNIQUE
);
INSERT INTO tenant VALUES (1, 'default');

-- One global source of versions: a resource that is deleted and stored again never repeats an ETag.
CREATE SEQUENCE version AS bigint;

CREATE TABLE patient (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant     integer NOT NULL REFERENCES tenant,
    patient_id text COLLATE "C" NOT NULL,            -- '' when the attribute is absent or empty
    issuer     text COLLATE "C" NOT NULL,
    orthanc_id bytea NOT NULL,
    name_fold  text COLLATE "C" NOT NULL,
    birth_date text COLLATE "C" NOT NULL,
    study_count integer NOT NULL DEFAULT 0,
    attributes jsonb NOT NULL,                       -- DICOM JSON members of the patient level
    changed_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, patient_id, issuer)
);
CREATE INDEX patient_orthanc ON patient (orthanc_id);

CREATE TABLE study (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant         integer NOT NULL REFERENCES tenant,
    patient        bigint NOT NULL REFERENCES patient,
    study_uid      text COLLATE "C" NOT NULL,
    orthanc_id     bytea NOT NULL,
    study_date     text COLLATE "C" NOT NULL,        -- DA, '' when absent
    study_time     text COLLATE "C" NOT NULL,        -- TM padded to HHMMSS.FFFFFF, '' when absent
    accession      text COLLATE "C" NOT NULL,
    study_id       text COLLATE "C" NOT NULL,
    patient_id     text COLLATE "C" NOT NULL,        -- of the patient row, here for the worklist's indexes
    name_fold      text COLLATE "C" NOT NULL,        -- PatientName folded: case, accents, width
    referring_fold text COLLATE "C" NOT NULL,
    description_fold text COLLATE "C" NOT NULL,
    modalities     text[] NOT NULL DEFAULT '{}',
    sop_classes    text[] NOT NULL DEFAULT '{}',
    series_count   integer NOT NULL DEFAULT 0,
    instance_count integer NOT NULL DEFAULT 0,
    bytes          bigint NOT NULL DEFAULT 0,
    summary        text[] NOT NULL,                  -- finished DICOM JSON members around the computed ones, see search.py
    attributes     jsonb NOT NULL,                   -- DICOM JSON members of the patient and study levels
    grams          text[] NOT NULL,                  -- trigrams of the folded texts, for '*infix*' matching
    version        bigint NOT NULL DEFAULT nextval('version'),
    received_at    timestamptz NOT NULL DEFAULT now(),
    changed_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, study_uid)
);
CREATE INDEX study_by_date ON study (tenant, study_date DESC, id DESC);         -- worklist pages, date ranges
CREATE INDEX study_by_patient_id ON study (tenant, patient_id);                 -- PatientID
CREATE INDEX study_by_name ON study (tenant, name_fold);                        -- PatientName, exact and 'PREFIX*'
CREATE INDEX study_by_accession ON study (tenant, accession);                   -- AccessionNumber
CREATE INDEX study_by_patient ON study (patient);                               -- deletion, patient level
CREATE INDEX study_orthanc ON study (orthanc_id);
CREATE INDEX study_grams ON study USING gin (grams);                            -- '*infix*' on names, IDs and descriptions
CREATE INDEX study_modalities ON study USING gin (modalities);                  -- ModalitiesInStudy

CREATE TABLE series (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant         integer NOT NULL REFERENCES tenant,
    study          bigint NOT NULL REFERENCES study,
    series_uid     text COLLATE "C" NOT NULL,
    orthanc_id     bytea NOT NULL,
    modality       text COLLATE "C" NOT NULL,
    series_number  bigint,
    instance_count integer NOT NULL DEFAULT 0,
    bytes          bigint NOT NULL DEFAULT 0,
    summary        text[] NOT NULL,
    attributes     jsonb NOT NULL,                   -- DICOM JSON members of the series level
    shared         text NOT NULL,                    -- instance-level members of the first instance, one a line; instances hold what differs
    shared_id      uuid NOT NULL,
    version        bigint NOT NULL DEFAULT nextval('version'),
    received_at    timestamptz NOT NULL DEFAULT now(),
    changed_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, series_uid)
);
CREATE INDEX series_by_study ON series (study, series_number, id);              -- series of a study, in reading order
CREATE INDEX series_by_modality ON series (tenant, modality, id);               -- GET /series?Modality=SM
CREATE INDEX series_orthanc ON series (orthanc_id);

CREATE TABLE instance (
    tenant          integer NOT NULL,
    series          bigint NOT NULL REFERENCES series,
    received_at     timestamptz NOT NULL DEFAULT now(),
    version         bigint NOT NULL DEFAULT nextval('version'),
    object_offset   bigint NOT NULL DEFAULT 0,
    object_size     bigint NOT NULL,
    metadata_crc    bigint NOT NULL,                 -- CRC-32 and length of the inflated metadata
    metadata_length bigint NOT NULL,
    metadata_cuts   integer[],                       -- where computed attributes go into the inflated metadata; NULL: they must be merged
    instance_number bigint,
    number_of_frames integer,
    rows            integer,
    columns         integer,
    bits_allocated  integer,
    meta_size       integer NOT NULL,                -- offset of the dataset in the file
    flags           integer NOT NULL DEFAULT 0,      -- 1: stored under another PatientID than its study's; 2: deflated dataset
    sop_uid         text COLLATE "C" NOT NULL,
    sop_class       text COLLATE "C" NOT NULL,
    transfer_syntax text COLLATE "C" NOT NULL,
    object_key      text COLLATE "C" NOT NULL,
    orthanc_id      bytea NOT NULL,
    file_sha256     bytea NOT NULL,
    dataset_sha256  bytea,                           -- of the bytes after the file meta group; computed when first compared
    source          text NOT NULL,                   -- provenance: protocol, AE title, address, principal
    attributes      jsonb NOT NULL,                  -- what differs from series.shared; JSON null: absent here
    bulk_table      bytea NOT NULL,
    frame_table     bytea,                           -- fixed-width records, read by substring(); NULL: no frames can be served
    frame_overflow  bytea,
    metadata        bytea,                           -- deflate pieces of the DICOM JSON; NULL: in the object object_key || '.json'
    PRIMARY KEY (tenant, sop_uid)                    -- the only unique key, so that hash partitioning by it stays possible
) WITH (toast_tuple_target = 8160, fillfactor = 100);
ALTER TABLE instance ALTER COLUMN metadata SET STORAGE EXTERNAL;
ALTER TABLE instance ALTER COLUMN frame_table SET STORAGE EXTERNAL;
ALTER TABLE instance ALTER COLUMN frame_overflow SET STORAGE EXTERNAL;
ALTER TABLE instance ALTER COLUMN bulk_table SET STORAGE EXTERNAL;
CREATE INDEX instance_by_series ON instance (series, instance_number);          -- instances and metadata of a series, in order
CREATE INDEX instance_orthanc ON instance (orthanc_id);

-- Ingest protocol: an object that a writer is about to put. Whoever deletes the row decides: the commit, or the sweeper.
CREATE TABLE intent (
    key         text COLLATE "C" PRIMARY KEY,
    tenant      integer NOT NULL,
    size        bigint NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz NOT NULL,
    claimed_at  timestamptz                          -- set by the sweeper: no commit may use the key any more
);
CREATE INDEX intent_by_lease ON intent (lease_until);

-- Objects without a row, to be deleted after a grace that is longer than the longest life of a PUT.
CREATE TABLE tomb (
    key        text COLLATE "C" PRIMARY KEY,
    not_before timestamptz NOT NULL
);
CREATE INDEX tomb_by_time ON tomb (not_before);

-- Change feed. `seq` is the public, gap-free number; the sequencer gives it to rows that no open transaction can precede.
CREATE TABLE change (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq        bigint UNIQUE,
    tenant     integer NOT NULL,
    kind       text NOT NULL,                        -- NewPatient, NewStudy, NewSeries, NewInstance, UpdatedInstance, Deleted
    level      text NOT NULL,                        -- patient, study, series, instance
    orthanc_id bytea NOT NULL,
    uid        text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX change_unnumbered ON change (xid, id) WHERE seq IS NULL;

-- Jobs: a public resource with progress and a result, claimed with FOR UPDATE SKIP LOCKED.
CREATE TABLE job (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant       integer NOT NULL REFERENCES tenant,
    kind         text NOT NULL,
    state        text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'paused', 'success', 'failure', 'retry')),
    priority     integer NOT NULL DEFAULT 0,
    content      jsonb NOT NULL,
    result       jsonb,
    error        text,
    progress     real NOT NULL DEFAULT 0,
    attempts     integer NOT NULL DEFAULT 0,
    cancel_requested boolean NOT NULL DEFAULT false,
    worker       uuid,                               -- fences a worker that was given up for lost
    heartbeat_at timestamptz,
    run_after    timestamptz NOT NULL DEFAULT now(),
    created_at   timestamptz NOT NULL DEFAULT now(),
    started_at   timestamptz,
    finished_at  timestamptz
);
CREATE INDEX job_queue ON job (kind, priority DESC, created_at) WHERE state IN ('pending', 'retry');
CREATE INDEX job_heartbeat ON job (heartbeat_at) WHERE state = 'running';
