-- Application entities: those of others, which are declared here, and our own beside the one of the setting `aet`.

CREATE TABLE modality (
    tenant          integer NOT NULL REFERENCES tenant,
    name            text COLLATE "C" NOT NULL,
    aet             text COLLATE "C" NOT NULL,
    host            text COLLATE "C" NOT NULL,            -- a name or an address; '' when it is not known
    port            integer NOT NULL CHECK (port BETWEEN 0 AND 65535),
    manufacturer    text NOT NULL,
    allow           text[] NOT NULL,                      -- see storage/permissions.py
    local_aet       text COLLATE "C",                     -- how we call ourselves to it; NULL: as always
    timeout         double precision CHECK (timeout > 0), -- seconds; NULL: as always
    tls             boolean NOT NULL,
    transcoding     boolean NOT NULL,
    retrieve_method text NOT NULL CHECK (retrieve_method IN ('C-MOVE', 'C-GET', 'SystemDefault')),
    PRIMARY KEY (tenant, name)
);
CREATE INDEX modality_by_aet ON modality (tenant, aet);

CREATE TABLE local_aet (
    aet    text COLLATE "C" PRIMARY KEY,
    tenant integer NOT NULL REFERENCES tenant,
    labels text[] NOT NULL DEFAULT '{}'                   -- of what is stored under this title
);

-- Jobs in parts: what a worker has done of one is not done again by the next. `status` is NULL until then; 0 means success.
ALTER TABLE job
    ADD COLUMN pause_requested boolean NOT NULL DEFAULT false,
    ADD COLUMN error_kind text,                           -- the slug of the error that ended it
    ADD COLUMN user_data jsonb;                           -- whatever its maker wants to find again
CREATE TABLE job_item (
    job     uuid NOT NULL REFERENCES job ON DELETE CASCADE,
    number  integer NOT NULL,
    content text NOT NULL,
    status  integer,
    comment text NOT NULL DEFAULT '',
    PRIMARY KEY (job, number)
);
CREATE INDEX job_item_open ON job_item (job, number) WHERE status IS NULL;

-- Queries to other application entities, with their answers: data sets in Explicit VR Little Endian, as they came.
CREATE TABLE asked_query (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant     integer NOT NULL REFERENCES tenant,
    modality   text NOT NULL,
    content    jsonb NOT NULL,
    identifier bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX asked_query_by_time ON asked_query (tenant, created_at DESC, id DESC);
CREATE TABLE asked_answer (
    query   uuid NOT NULL REFERENCES asked_query ON DELETE CASCADE,
    number  integer NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (query, number)
);

-- Storage commitment that other application entities were asked for (PS3.4 J.3). `reason` is NULL until they answered, 0: committed.
CREATE TABLE asked_commitment (
    transaction_uid text COLLATE "C" PRIMARY KEY,
    tenant          integer NOT NULL REFERENCES tenant,
    remote_aet      text COLLATE "C" NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    answered_at     timestamptz
);
CREATE INDEX asked_commitment_by_time ON asked_commitment (tenant, created_at DESC);
CREATE TABLE asked_commitment_item (
    transaction_uid text COLLATE "C" NOT NULL REFERENCES asked_commitment ON DELETE CASCADE,
    sop_uid         text COLLATE "C" NOT NULL,
    sop_class       text COLLATE "C" NOT NULL,
    reason          integer,
    PRIMARY KEY (transaction_uid, sop_uid)
);
