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
