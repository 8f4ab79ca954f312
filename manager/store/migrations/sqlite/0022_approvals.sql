-- Changes that wait for a second person, and what became of them. The request is as it was sent; of a job that waits as a draft it is
-- empty. The jobs are those that it reaches, with how many clients each (JSON).
CREATE TABLE approval (
    id TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    requester TEXT NOT NULL,
    method TEXT NOT NULL,
    request BLOB NOT NULL,
    what TEXT NOT NULL,
    job TEXT REFERENCES job (id),
    fingerprint BLOB NOT NULL,
    clients INTEGER NOT NULL,
    fleet INTEGER NOT NULL,
    jobs TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    decided_ms INTEGER,
    decider TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX approval_pending ON approval (id) WHERE state = 'PENDING';
CREATE INDEX approval_job ON approval (job, id) WHERE state = 'PENDING' AND job IS NOT NULL;
CREATE INDEX approval_requester ON approval (requester, id) WHERE state = 'PENDING';
CREATE INDEX approval_expires ON approval (expires_ms, id) WHERE state = 'PENDING';
CREATE INDEX approval_decided ON approval (decided_ms) WHERE decided_ms IS NOT NULL;

-- What a job would come to, as it was when somebody asked (JSON), with the order as it was sent.
CREATE TABLE job_plan (
    id TEXT NOT NULL PRIMARY KEY,
    creator TEXT NOT NULL,
    job_order BLOB NOT NULL,
    summary TEXT NOT NULL,
    clients INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE job_plan_client (
    plan TEXT NOT NULL REFERENCES job_plan (id),
    client TEXT NOT NULL,
    verdict TEXT NOT NULL,
    presence TEXT NOT NULL,
    stage INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    opens_ms INTEGER,
    why TEXT NOT NULL,
    PRIMARY KEY (plan, client)
) STRICT, WITHOUT ROWID;
