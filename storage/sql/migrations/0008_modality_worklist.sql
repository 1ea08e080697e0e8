-- Modality worklist (PS3.4 annex K) and modality performed procedure steps (annex F).

-- One scheduled procedure step with all that a worklist item says of it: its ScheduledProcedureStepSequence has exactly one item.
CREATE TABLE scheduled_step (
    tenant      integer NOT NULL REFERENCES tenant,
    id          uuid NOT NULL,
    version     bigint NOT NULL DEFAULT 0,            -- of two changes at once one starts again
    created_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now(),
    attributes  jsonb NOT NULL,                       -- DICOM JSON model
    stations    text[] NOT NULL,                      -- ScheduledStationAETitle, which may have several values
    name_fold   text COLLATE "C" NOT NULL,            -- PatientName folded: case, accents, width
    start       text COLLATE "C" NOT NULL GENERATED ALWAYS AS (                      -- date and time, compared as one text
        coalesce(attributes #>> '{00400100,Value,0,00400002,Value,0}', '') || coalesce(attributes #>> '{00400100,Value,0,00400003,Value,0}', '')) STORED,
    start_time  text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00400100,Value,0,00400003,Value,0}', '')) STORED,
    modality    text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00400100,Value,0,00080060,Value,0}', '')) STORED,
    step_id     text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00400100,Value,0,00400009,Value,0}', '')) STORED,
    status      text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00400100,Value,0,00400020,Value,0}', '')) STORED,
    patient_id  text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00100020,Value,0}', '')) STORED,
    accession   text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00080050,Value,0}', '')) STORED,
    study_uid   text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{0020000D,Value,0}', '')) STORED,
    procedure_id text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00401001,Value,0}', '')) STORED,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX scheduled_by_start ON scheduled_step (tenant, start, id);               -- pages in the order of the schedule; dates
CREATE INDEX scheduled_by_station ON scheduled_step USING gin (stations);            -- a modality asks for its own work
CREATE INDEX scheduled_by_patient ON scheduled_step (tenant, patient_id);
CREATE INDEX scheduled_by_name ON scheduled_step (tenant, name_fold);                -- PatientName, exact and 'PREFIX*'
CREATE INDEX scheduled_by_accession ON scheduled_step (tenant, accession);
CREATE INDEX scheduled_by_study ON scheduled_step (tenant, study_uid);               -- what a performed step belongs to
CREATE INDEX scheduled_by_procedure ON scheduled_step (tenant, procedure_id);
CREATE INDEX scheduled_by_change ON scheduled_step (changed_at);                     -- retention

-- What modalities report of the work that they do: the three SOP Classes of MPPS share these instances.
CREATE TABLE performed_step (
    tenant      integer NOT NULL REFERENCES tenant,
    uid         text COLLATE "C" NOT NULL,
    version     bigint NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now(),
    attributes  jsonb NOT NULL,
    status      text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00400252,Value,0}', '')) STORED,
    start       text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        coalesce(attributes #>> '{00400244,Value,0}', '') || coalesce(attributes #>> '{00400245,Value,0}', '')) STORED,
    patient_id  text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00100020,Value,0}', '')) STORED,
    PRIMARY KEY (tenant, uid)
);
CREATE INDEX performed_by_start ON performed_step (tenant, start, uid);
CREATE INDEX performed_by_patient ON performed_step (tenant, patient_id);
CREATE INDEX performed_by_change ON performed_step (changed_at);                     -- retention
