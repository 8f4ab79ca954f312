-- Changes that wait for a second person, and what became of them. The request is as it was sent; of a job that waits as a draft it is
-- empty. The jobs are those that it reaches, with how many clients each (JSON).
CREATE TABLE approval (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    state TEXT COLLATE "C" NOT NULL,
    requester TEXT COLLATE "C" NOT NULL,
    method TEXT COLLATE "C" NOT NULL,
    request BYTEA NOT NULL,
    what TEXT COLLATE "C" NOT NULL,
    job TEXT COLLATE "C" REFERENCES job (id),
    fingerprint BYTEA NOT NULL,
    clients BIGINT NOT NULL,
    fleet BIGINT NOT NULL,
    jobs TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    decided_ms BIGINT,
    decider TEXT COLLATE "C" NOT NULL DEFAULT '',
    reason TEXT COLLATE "C" NOT NULL DEFAULT ''
);
CREATE INDEX approval_pending ON approval (id) WHERE state = 'PENDING';
CREATE INDEX approval_job ON approval (job, id) WHERE state = 'PENDING' AND job IS NOT NULL;
CREATE INDEX approval_requester ON approval (requester, id) WHERE state = 'PENDING';
CREATE INDEX approval_expires ON approval (expires_ms, id) WHERE state = 'PENDING';
CREATE INDEX approval_decided ON approval (decided_ms) WHERE decided_ms IS NOT NULL;

-- What a job would come to, as it was when somebody asked (JSON), with the order as it was sent.
CREATE TABLE job_plan (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    creator TEXT COLLATE "C" NOT NULL,
    job_order BYTEA NOT NULL,
    summary TEXT COLLATE "C" NOT NULL,
    clients BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE TABLE job_plan_client (
    plan TEXT COLLATE "C" NOT NULL REFERENCES job_plan (id),
    client TEXT COLLATE "C" NOT NULL,
    verdict TEXT COLLATE "C" NOT NULL,
    presence TEXT COLLATE "C" NOT NULL,
    stage BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    opens_ms BIGINT,
    why TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (plan, client)
);
