-- What is known of tiled instances before anyone asks, so that a slide opens without a look into its files. Made when an instance is stored,
-- and at the first use of instances that were stored before this table was there.

CREATE TABLE tiled (
    tenant      integer NOT NULL,
    sop_uid     text COLLATE "C" NOT NULL,
    per_frame   boolean NOT NULL,                    -- the instance has per-frame functional groups
    file_sha256 bytea NOT NULL,                      -- the file that is described: the row of one that was replaced does not count
    icc_sha256  bytea,                               -- of the first ICC profile; NULL: there is none
    header      bytea NOT NULL,                      -- zlib of the DICOM JSON without per-frame functional groups
    places      bytea,                               -- where the frames of a TILED_SPARSE instance lie, see dicomweb/slides/places.py
    PRIMARY KEY (tenant, sop_uid)
);
ALTER TABLE tiled ALTER COLUMN header SET STORAGE EXTERNAL;
ALTER TABLE tiled ALTER COLUMN places SET STORAGE EXTERNAL;
