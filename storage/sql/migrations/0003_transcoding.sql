-- Instances whose object was written again in another transfer syntax, and the readers of the change feed inside the archive.

-- What the sender sent is what repeats are known by; file_sha256 and dataset_sha256 are of the stored object. NULL: it is what was sent.
ALTER TABLE instance ADD COLUMN received_sha256 bytea, ADD COLUMN received_dataset_sha256 bytea;

-- How far each reader has come. One worker at a time reads for it; `tries` counts those that did not live to move on.
CREATE TABLE reader (
    name        text PRIMARY KEY,
    seq         bigint NOT NULL,                     -- of the last change that was dealt with
    worker      uuid,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    tries       integer NOT NULL DEFAULT 0,
    done        bigint NOT NULL DEFAULT 0,
    failed      bigint NOT NULL DEFAULT 0,
    saved       bigint NOT NULL DEFAULT 0            -- bytes; negative where objects grew
);
