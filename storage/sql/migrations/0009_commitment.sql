-- Storage commitment that others ask us for (PS3.4 J.3): a job each, whose parts are the instances. The transaction UID is what it is asked for once by.
CREATE INDEX job_commitment_finished ON job (finished_at) WHERE kind = 'StorageCommitmentScp' AND finished_at IS NOT NULL; -- retention
