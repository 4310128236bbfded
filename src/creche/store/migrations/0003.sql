-- A job's life: it may have to wait for its time, expire, fail and be tried again.

ALTER TABLE job ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN due_at REAL;
ALTER TABLE job ADD COLUMN expires_at REAL;
ALTER TABLE job ADD COLUMN tries_bytes INTEGER NOT NULL DEFAULT 0;

ALTER TABLE ending ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tombstone ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;

-- From here on `job.stored` is 2 for what waits for its time beyond the plane's heap.
CREATE INDEX job_due ON job (due_at, seq) WHERE stored = 2;

CREATE INDEX job_expiry ON job (expires_at) WHERE stored IS NOT NULL AND expires_at IS NOT NULL;

-- What became of the tries before the last: most jobs have none of these.
CREATE TABLE try (
  seq INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  state INTEGER NOT NULL,
  holder TEXT,
  started_at REAL,
  ended_at REAL NOT NULL,
  outcome BLOB,
  PRIMARY KEY (seq, attempt)
) WITHOUT ROWID;
