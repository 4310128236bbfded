-- The first schema. What all jobs have is in `job`; what only ended ones have is in `ending`, in the
-- order of the ends, so that pruning walks the oldest and the hot table has no index for it.

CREATE TABLE ledger (
  name TEXT PRIMARY KEY,
  epoch INTEGER NOT NULL,
  opened_at REAL NOT NULL,
  next_seq INTEGER NOT NULL,
  -- Kept with every commit, so that neither opening nor a question ever counts millions of rows.
  counts TEXT NOT NULL,          -- JSON: jobs by state, for the states that have any
  kept_bytes INTEGER NOT NULL    -- payloads and outcomes of ended jobs
) WITHOUT ROWID;

INSERT INTO ledger VALUES ('main', 0, 0, 1, '{}', 0);

CREATE TABLE lane (
  lane INTEGER PRIMARY KEY,
  queue TEXT,
  priority INTEGER,
  park TEXT NOT NULL
);

CREATE TABLE task (
  name TEXT PRIMARY KEY,
  declaration BLOB NOT NULL,
  announced_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE job (
  seq INTEGER PRIMARY KEY,
  id BLOB NOT NULL UNIQUE,
  task TEXT NOT NULL,
  lane INTEGER NOT NULL,
  state INTEGER NOT NULL,
  stored INTEGER,                -- 1: beyond its window; 0: held by the plane; NULL: ended
  submitted_at REAL NOT NULL,
  payload_bytes INTEGER NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  losses INTEGER NOT NULL DEFAULT 0,
  epoch INTEGER NOT NULL DEFAULT 0,
  holder TEXT,
  leased_at REAL,
  ending INTEGER,                -- ending.n once ended, tombstone.n once forgotten
  options BLOB,
  payload BLOB                   -- NULL: in `large`, or forgotten
);

-- One entry for each unfinished job, none for all that have ended: the stored tails of the lanes, by
-- seq (counted from the index alone), and the held jobs at recovery.
CREATE INDEX job_place ON job (stored, lane) WHERE stored IS NOT NULL;

-- Payloads that would make a job's row long: SQLite writes a row anew with every change.
CREATE TABLE large (
  seq INTEGER PRIMARY KEY,
  payload BLOB NOT NULL
);

CREATE TABLE ending (
  n INTEGER PRIMARY KEY,         -- in the order of the ends
  seq INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  losses INTEGER NOT NULL,
  holder TEXT,
  started_at REAL,
  ended_at REAL NOT NULL,
  outcome_bytes INTEGER,         -- NULL: there is none
  outcome BLOB
);

CREATE TABLE tombstone (
  n INTEGER PRIMARY KEY,         -- in the order of the forgetting
  seq INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  losses INTEGER NOT NULL,
  holder TEXT,
  started_at REAL,
  ended_at REAL NOT NULL,
  forgotten_at REAL NOT NULL
);
