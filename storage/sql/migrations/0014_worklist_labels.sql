-- Labels of worklist items: an AE title of ours with labels shows the items that have all of them.
ALTER TABLE scheduled_step ADD COLUMN labels text[] COLLATE "C" NOT NULL DEFAULT '{}';
CREATE INDEX scheduled_by_label ON scheduled_step USING gin (labels) WHERE labels <> '{}';
