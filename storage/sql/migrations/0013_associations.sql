-- Declared application entities: by which certificates they are known, and whether they hear of performed procedure steps.
ALTER TABLE modality
    ADD COLUMN certificates text[] COLLATE "C" NOT NULL DEFAULT '{}',   -- SHA-256, hexadecimal; none: the title is a claim
    ADD COLUMN notify_mpps boolean NOT NULL DEFAULT false;
CREATE INDEX modality_to_notify ON modality (tenant) WHERE notify_mpps;
