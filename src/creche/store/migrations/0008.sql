-- Jobs whose place others have taken, and which are to be cancelled. A row goes when its job ends.

CREATE TABLE ousted (
  seq INTEGER PRIMARY KEY,       -- the job
  attempt INTEGER NOT NULL,      -- its last one when its place was taken
  running INTEGER NOT NULL       -- 1: also if it runs; 0: only if it has begun no other attempt since
);

INSERT OR IGNORE INTO ousted
  SELECT job.seq, job.attempt, unique_key.oust_running
  FROM unique_key JOIN job ON job.seq = unique_key.ousts
  WHERE job.stored IS NOT NULL AND (unique_key.oust_running OR job.attempt = 0);

DROP INDEX unique_key_ousts;
ALTER TABLE unique_key DROP COLUMN ousts;
ALTER TABLE unique_key DROP COLUMN oust_running;

-- Attempts were told by the number of their lease, which grows also with what is not counted. From now on
-- they are numbered as people count them: those that have failed or were lost, and the one after these.
-- Whatever stands in a damaged row, the others are brought along: a count that is none is taken for 0.

CREATE TABLE renumbered (seq INTEGER, lease INTEGER, number INTEGER, PRIMARY KEY (seq, lease)) WITHOUT ROWID;

INSERT INTO renumbered
  SELECT seq, attempt AS lease,
    max(come_to_nothing, count(*) OVER (PARTITION BY seq))
      - row_number() OVER (PARTITION BY seq ORDER BY attempt DESC) + 1 AS number
  FROM (
    SELECT try.seq AS seq, try.attempt AS attempt,
      CASE WHEN job.ending IS NULL THEN
        iif(typeof(job.failures) = 'integer' AND job.failures BETWEEN 0 AND 9007199254740992, job.failures, 0)
        + iif(typeof(job.losses) = 'integer' AND job.losses BETWEEN 0 AND 9007199254740992, job.losses, 0)
      ELSE
        iif(typeof(ending.failures) = 'integer' AND ending.failures BETWEEN 0 AND 9007199254740992, ending.failures, 0)
        + iif(typeof(ending.losses) = 'integer' AND ending.losses BETWEEN 0 AND 9007199254740992, ending.losses, 0)
        - (job.state IN (11, 13))
      END AS come_to_nothing
    FROM try JOIN job ON job.seq = try.seq
    LEFT JOIN ending ON ending.n = job.ending AND job.state <> 20
  );

-- In two steps, so that no two are the same in between. Of two whose attempt is no number, and whose job is
-- not there, one is left.
UPDATE OR REPLACE try SET attempt = -coalesce(
  (SELECT number FROM renumbered WHERE renumbered.seq = try.seq AND lease = try.attempt), attempt
);
UPDATE OR REPLACE try SET attempt = -attempt;

DROP TABLE renumbered;

UPDATE ending SET attempt = min(
  attempt,
  failures + losses + coalesce(
    (SELECT job.state = 10 OR (job.state = 12 AND ending.started_at IS NOT NULL)
     FROM job WHERE job.seq = ending.seq), 0
  )
) WHERE attempt > 0;

UPDATE tombstone SET attempt = min(attempt, failures + losses + 1) WHERE attempt > 0;
