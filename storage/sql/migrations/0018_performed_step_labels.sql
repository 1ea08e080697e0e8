-- Labels of performed procedure steps: those of the AE title of ours by which a modality reports them.
ALTER TABLE performed_step ADD COLUMN labels text[] COLLATE "C" NOT NULL DEFAULT '{}';
