-- Which ledger this is, among all that there ever were: a worker that outlives its plane knows by it
-- whether the next one has the same jobs.

ALTER TABLE ledger ADD COLUMN id TEXT NOT NULL DEFAULT '';

UPDATE ledger SET id = lower(hex(randomblob(8)));
