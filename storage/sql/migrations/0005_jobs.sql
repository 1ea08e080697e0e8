-- Jobs that hold an object until they are over (an uploaded slide), jobs that leave a file to be fetched (an exported slide), and jobs that are
-- asked for only once (a file in a watched folder).
ALTER TABLE job
    ADD COLUMN object_key text COLLATE "C", ADD COLUMN object_size bigint,
    ADD COLUMN result_key text COLLATE "C", ADD COLUMN result_size bigint,
    ADD COLUMN once text COLLATE "C";
CREATE UNIQUE INDEX job_once ON job (tenant, kind, once) WHERE once IS NOT NULL;
CREATE INDEX job_object ON job (object_key) WHERE object_key IS NOT NULL;                   -- fsck
CREATE INDEX job_result ON job (result_key) WHERE result_key IS NOT NULL;                   -- fsck; what may be dropped
CREATE INDEX job_by_time ON job (tenant, created_at DESC, id DESC);                         -- the list of jobs
CREATE INDEX job_finished ON job (finished_at) WHERE once IS NULL AND finished_at IS NOT NULL; -- retention
