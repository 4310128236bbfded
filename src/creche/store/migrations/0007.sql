-- Unique keys: which job was submitted last with a key that tells it apart from others. A row goes with its
-- job's.

CREATE TABLE unique_key (
  name BLOB PRIMARY KEY,         -- a digest: of the task, the kind of key, and the key
  seq INTEGER NOT NULL,          -- the job
  since REAL NOT NULL            -- when the first of the jobs came of which each has replaced the one before
) WITHOUT ROWID;

CREATE INDEX unique_key_job ON unique_key (seq);

-- Jobs whose place others have taken, and which are to be cancelled. A row goes when its job ends.

CREATE TABLE ousted (
  seq INTEGER PRIMARY KEY,       -- the job
  attempt INTEGER NOT NULL,      -- its last one when its place was taken
  running INTEGER NOT NULL       -- 1: also if it runs; 0: only if it has begun no other attempt since
);
