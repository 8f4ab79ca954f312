-- What operators stopped: everything, a group (by its uid), a package, or a version of it.
CREATE TABLE stop (
    scope TEXT NOT NULL,
    target TEXT NOT NULL,
    version TEXT NOT NULL,
    reason TEXT NOT NULL,
    creator TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (scope, target, version)
) STRICT, WITHOUT ROWID;

-- Queued rows that were let go by their stage and are held back by something else.
CREATE INDEX execution_held ON execution (hold, job, client)
    WHERE state = 'QUEUED' AND hold IN ('STOPPED', 'BREAKER', 'BUDGET', 'RETRY');

-- Jobs with rows that were offered and have not begun.
CREATE INDEX job_counter_offered ON job_counter (job) WHERE n > 0 AND state IN ('OFFERED', 'DOWNLOADING', 'WAITING');

-- How attempts to install a version ended, on the members of a group or of one job (JSON), and since when that keeps others from
-- beginning, and why.
CREATE TABLE breaker (
    uid TEXT NOT NULL PRIMARY KEY,
    version TEXT NOT NULL,
    scope TEXT NOT NULL,
    target TEXT NOT NULL,
    counted TEXT NOT NULL,
    opened_ms INTEGER,
    why TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX breaker_key ON breaker (version, scope, target);
CREATE INDEX breaker_target ON breaker (scope, target);
CREATE INDEX breaker_open ON breaker (opened_ms, uid) WHERE opened_ms IS NOT NULL;

-- How many retries by themselves an execution has had, and when the next one is due, if it waits for it.
CREATE TABLE retry (
    job TEXT NOT NULL,
    client TEXT NOT NULL,
    used INTEGER NOT NULL,
    due_ms INTEGER,
    PRIMARY KEY (job, client)
) STRICT, WITHOUT ROWID;
CREATE INDEX retry_due ON retry (due_ms) WHERE due_ms IS NOT NULL;

-- Clients that were out of contact when their turn came, and since when that is.
CREATE TABLE awaited (
    job TEXT NOT NULL,
    client TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (job, client)
) STRICT, WITHOUT ROWID;

-- How many clients the jobs of an operator may let go in an hour, where that is not what the manager has for all.
CREATE TABLE operator_budget (
    operator TEXT NOT NULL PRIMARY KEY,
    per_hour INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What was let go from each purse within the last hour. The first table is there to be locked.
CREATE TABLE purse (
    name TEXT NOT NULL PRIMARY KEY,
    used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE spent (
    purse TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (purse, at_ms)
) STRICT, WITHOUT ROWID;
