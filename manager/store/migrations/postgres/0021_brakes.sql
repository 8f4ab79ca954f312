-- What operators stopped: everything, a group (by its uid), a package, or a version of it.
CREATE TABLE stop (
    scope TEXT COLLATE "C" NOT NULL,
    target TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    creator TEXT COLLATE "C" NOT NULL,
    since_ms BIGINT NOT NULL,
    PRIMARY KEY (scope, target, version)
);

-- Queued rows that were let go by their stage and are held back by something else.
CREATE INDEX execution_held ON execution (hold, job, client)
    WHERE state = 'QUEUED' AND hold IN ('STOPPED', 'BREAKER', 'BUDGET', 'RETRY');

-- Jobs with rows that were offered and have not begun.
CREATE INDEX job_counter_offered ON job_counter (job) WHERE n > 0 AND state IN ('OFFERED', 'DOWNLOADING', 'WAITING');

-- How attempts to install a version ended, on the members of a group or of one job (JSON), and since when that keeps others from
-- beginning, and why.
CREATE TABLE breaker (
    uid TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    version TEXT COLLATE "C" NOT NULL,
    scope TEXT COLLATE "C" NOT NULL,
    target TEXT COLLATE "C" NOT NULL,
    counted TEXT COLLATE "C" NOT NULL,
    opened_ms BIGINT,
    why TEXT COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX breaker_key ON breaker (version, scope, target);
CREATE INDEX breaker_target ON breaker (scope, target);
CREATE INDEX breaker_open ON breaker (opened_ms, uid) WHERE opened_ms IS NOT NULL;

-- How many retries by themselves an execution has had, and when the next one is due, if it waits for it.
CREATE TABLE retry (
    job TEXT COLLATE "C" NOT NULL,
    client TEXT COLLATE "C" NOT NULL,
    used BIGINT NOT NULL,
    due_ms BIGINT,
    PRIMARY KEY (job, client)
);
CREATE INDEX retry_due ON retry (due_ms) WHERE due_ms IS NOT NULL;

-- Clients that were out of contact when their turn came, and since when that is.
CREATE TABLE awaited (
    job TEXT COLLATE "C" NOT NULL,
    client TEXT COLLATE "C" NOT NULL,
    since_ms BIGINT NOT NULL,
    PRIMARY KEY (job, client)
);

-- How many clients the jobs of an operator may let go in an hour, where that is not what the manager has for all.
CREATE TABLE operator_budget (
    operator TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    per_hour BIGINT NOT NULL
);

-- What was let go from each purse within the last hour. The first table is there to be locked.
CREATE TABLE purse (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    used BIGINT NOT NULL
);
CREATE TABLE spent (
    purse TEXT COLLATE "C" NOT NULL,
    at_ms BIGINT NOT NULL,
    n BIGINT NOT NULL,
    PRIMARY KEY (purse, at_ms)
);
