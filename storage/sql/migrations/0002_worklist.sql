-- Unified Procedure Steps, who is subscribed to them, and the events that wait for subscribers.

CREATE TABLE workitem (
    tenant          integer NOT NULL REFERENCES tenant,
    id              bigint GENERATED ALWAYS AS IDENTITY,
    version         bigint NOT NULL DEFAULT 0,        -- every change compares and raises it: of two claims one wins
    created_at      timestamptz NOT NULL DEFAULT now(),
    changed_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,                      -- since when COMPLETED or CANCELED
    uid             text COLLATE "C" NOT NULL,
    transaction_uid text COLLATE "C",                 -- the performer's secret, never part of the attributes
    attributes      jsonb NOT NULL,                   -- DICOM JSON model
    state           text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00741000,Value,0}', '')) STORED,
    start_time      text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00404005,Value,0}', '')) STORED,
    patient_id      text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00100020,Value,0}', '')) STORED,
    worklist_label  text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(attributes #>> '{00741202,Value,0}', '')) STORED,
    PRIMARY KEY (tenant, uid)
);
CREATE INDEX workitem_by_start ON workitem (tenant, start_time, id);                 -- pages in the order of the schedule
CREATE INDEX workitem_by_state ON workitem (tenant, state, start_time, id);          -- what is there to do
CREATE INDEX workitem_by_patient ON workitem (tenant, patient_id);
CREATE INDEX workitem_by_code ON workitem USING gin (                                -- CodeValue inside any sequence: station, workitem code
    jsonb_path_query_array(attributes, '$.*."Value"[*]."00080100"."Value"[*]'));
CREATE INDEX workitem_finished ON workitem (finished_at) WHERE finished_at IS NOT NULL;   -- retention

-- Steps that were removed: 410 instead of 404.
CREATE TABLE workitem_gone (
    tenant  integer NOT NULL,
    uid     text COLLATE "C" NOT NULL,
    gone_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, uid)
);
CREATE INDEX workitem_gone_by_time ON workitem_gone (gone_at);

-- One row per tenant. Who changes a step holds it shared and has seen its generation; who subscribes to the worklist raises the
-- generation: no step slips between "all that exist" and "all that come".
CREATE TABLE worklist (
    tenant     integer PRIMARY KEY REFERENCES tenant,
    generation bigint NOT NULL DEFAULT 0
);
INSERT INTO worklist (tenant) SELECT id FROM tenant;

-- PS3.4 CC.2.3.1: the global subscription state of an AE, to all steps or to those that match a filter when they are created.
CREATE TABLE worklist_subscription (
    tenant        integer NOT NULL REFERENCES tenant,
    aet           text COLLATE "C" NOT NULL,
    filtered      boolean NOT NULL,
    deletion_lock boolean NOT NULL,
    filter        jsonb NOT NULL,                    -- the matching keys as they came: [[name, value], ...]
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, aet, filtered)
);

-- The subscription state of an AE to one step.
CREATE TABLE workitem_subscription (
    tenant        integer NOT NULL,
    uid           text COLLATE "C" NOT NULL,
    aet           text COLLATE "C" NOT NULL,
    deletion_lock boolean NOT NULL,
    PRIMARY KEY (tenant, uid, aet)
);
CREATE INDEX workitem_subscription_by_aet ON workitem_subscription (tenant, aet);

-- Where an AE listens: the newest connection owns the channel, an older one ends.
CREATE TABLE subscriber (
    tenant    integer NOT NULL REFERENCES tenant,
    aet       text COLLATE "C" NOT NULL,
    owner     uuid,
    opened_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, aet)
);

-- Events that wait: deleted some time after they were sent over a connection that is still open then, or when they are too old or too many.
CREATE TABLE workitem_event (
    tenant     integer NOT NULL,
    aet        text COLLATE "C" NOT NULL,
    id         bigint GENERATED ALWAYS AS IDENTITY,
    created_at timestamptz NOT NULL DEFAULT now(),
    uid        text COLLATE "C" NOT NULL,
    kind       smallint NOT NULL,                    -- Event Type ID
    content    jsonb NOT NULL,
    PRIMARY KEY (tenant, aet, id)
);
CREATE INDEX workitem_event_by_time ON workitem_event (created_at);
