-- Unique keys: which job was submitted last with a key that tells it apart from others. A row goes with its
-- job's.

CREATE TABLE unique_key (
  name BLOB PRIMARY KEY,         -- a digest: of the task, the kind of key, and the key
  seq INTEGER NOT NULL,          -- the job
  since REAL NOT NULL,           -- when the first of the jobs came of which each has replaced the one before
  ousts INTEGER,                 -- the seq of the job that is cancelled once this one is stored
  oust_running INTEGER NOT NULL  -- 1: also if that one runs
) WITHOUT ROWID;

CREATE INDEX unique_key_job ON unique_key (seq);
CREATE INDEX unique_key_ousts ON unique_key (ousts) WHERE ousts IS NOT NULL;
