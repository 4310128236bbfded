-- The dead: jobs that ended without a result, and were not cancelled, until somebody has looked after
-- them. Other jobs have no row here.

CREATE TABLE dead (
  seq INTEGER PRIMARY KEY,
  ended_at REAL NOT NULL,
  size INTEGER NOT NULL,         -- what the job takes up: payload, outcome, and those of its tries
  fate INTEGER NOT NULL,         -- 0: in the set; 1: submitted again; 2: discarded
  judged_at REAL,
  retried_as BLOB                -- the id of the job that it was submitted again as
);

CREATE INDEX dead_set ON dead (ended_at, seq, size) WHERE fate = 0;

INSERT INTO dead (seq, ended_at, size, fate)
  SELECT j.seq, e.ended_at, j.payload_bytes + j.tries_bytes + coalesce(e.outcome_bytes, 0), 0
  FROM ending e JOIN job j ON j.seq = e.seq WHERE j.state IN (11, 13, 14);
