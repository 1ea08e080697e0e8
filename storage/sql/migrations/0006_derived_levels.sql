-- Slides whose coarse levels are made by the worker. The levels are one object, of tiles one after the other; a row without an object has nothing
-- to be made, or was not looked at yet. `fingerprint` is of the tiled instances that the object was made of: for others it does not count.

CREATE TABLE derived (
    tenant       integer NOT NULL,
    series_uid   text COLLATE "C" NOT NULL,
    due          timestamptz,                        -- when the slide changed last; NULL: the worker has looked at it since
    worker       uuid,
    lease_until  timestamptz NOT NULL DEFAULT '-infinity',
    tries        integer NOT NULL DEFAULT 0,         -- of workers that did not live to finish
    fingerprint  bytea,
    object_key   text COLLATE "C" UNIQUE,
    object_size  bigint,
    frame_table  bytea,                              -- where each tile lies, in the records of instance.frame_table
    PRIMARY KEY (tenant, series_uid)
);
ALTER TABLE derived ALTER COLUMN frame_table SET STORAGE EXTERNAL;
CREATE INDEX derived_due ON derived (due) WHERE due IS NOT NULL;

INSERT INTO derived (tenant, series_uid, due)
SELECT DISTINCT s.tenant, s.series_uid, now() FROM tiled d JOIN instance i ON i.tenant = d.tenant AND i.sop_uid = d.sop_uid JOIN series s ON s.id = i.series;
