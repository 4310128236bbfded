-- Rules that submit jobs. Each firing writes its schedule's row anew, beside the job.

CREATE TABLE schedule (
  name TEXT PRIMARY KEY,
  data BLOB NOT NULL
) WITHOUT ROWID;
