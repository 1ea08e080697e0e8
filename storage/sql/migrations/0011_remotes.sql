-- Other servers that are called by HTTP: Orthanc's peers, and DICOMweb servers. `password` and `headers` are read where a request is made, and nowhere else.

CREATE TABLE remote (
    tenant     integer NOT NULL REFERENCES tenant,
    kind       text COLLATE "C" NOT NULL CHECK (kind IN ('peer', 'dicomweb')),
    name       text COLLATE "C" NOT NULL,
    url        text COLLATE "C" NOT NULL,                 -- with a slash at its end
    username   text,
    password   text,
    headers    jsonb NOT NULL,                            -- names and values, sent with every request
    timeout    double precision CHECK (timeout > 0),      -- seconds; NULL: as always
    properties jsonb NOT NULL,                            -- names and texts that whoever declared it wants to find again
    PRIMARY KEY (tenant, kind, name)
);
