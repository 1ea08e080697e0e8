-- CRC-32 of stored files that went into a ZIP file which broke off: who goes on with it needs them for the directory at its end.
-- An object's bytes never change, so that a row is true as long as it is kept.
CREATE TABLE file_crc (
    object_key    text COLLATE "C" NOT NULL,
    object_offset bigint NOT NULL,
    crc           bigint NOT NULL,
    noted_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (object_key, object_offset)
);
CREATE INDEX file_crc_by_time ON file_crc (noted_at);
