-- Transfers in buckets between servers, as by Orthanc's transfers accelerator plug-in.

ALTER TABLE tenant ADD COLUMN originator uuid NOT NULL DEFAULT gen_random_uuid(); -- who this archive is to those that it asks to pull

-- MD5 of stored files that were transferred. An object's bytes never change, so that a row is true as long as it is kept.
CREATE TABLE file_md5 (
    object_key    text COLLATE "C" NOT NULL,
    object_offset bigint NOT NULL,
    md5           bytea NOT NULL,
    noted_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (object_key, object_offset)
);
CREATE INDEX file_md5_by_time ON file_md5 (noted_at);

-- received: pushed by a peer; pulled and sent: of a job of ours, whose identifier it has.
CREATE TABLE transfer (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant      integer NOT NULL REFERENCES tenant,
    role        text NOT NULL CHECK (role IN ('received', 'pulled', 'sent')),
    compression text NOT NULL CHECK (compression IN ('none', 'gzip')),
    instances   integer NOT NULL,
    size        bigint NOT NULL,                       -- bytes of all files
    path        text,                                  -- where the peer has what is sent
    job         uuid,                                  -- the last one that was to store what came
    over        boolean NOT NULL DEFAULT false,        -- everything is stored
    touched_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX transfer_by_time ON transfer (touched_at);

CREATE TABLE transfer_bucket (
    transfer uuid NOT NULL REFERENCES transfer ON DELETE CASCADE,
    number   integer NOT NULL,                         -- from 0
    size     bigint NOT NULL,
    pieces   jsonb NOT NULL,                           -- instance, offset in its file, bytes
    done     boolean NOT NULL DEFAULT false,           -- sent, or come
    key      text COLLATE "C",                         -- the object that holds what came
    PRIMARY KEY (transfer, number)
);
CREATE INDEX transfer_bucket_object ON transfer_bucket (key) WHERE key IS NOT NULL; -- fsck

CREATE TABLE transfer_instance (
    transfer uuid NOT NULL REFERENCES transfer ON DELETE CASCADE,
    number   integer NOT NULL,                         -- from 0
    name     text COLLATE "C" NOT NULL,                -- Orthanc's identifier
    md5      bytea NOT NULL,
    places   jsonb NOT NULL,                           -- bucket, offset in it, bytes; in the order of the file
    PRIMARY KEY (transfer, number)
);
