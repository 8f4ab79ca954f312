-- Groups and clients that a job never reaches, whatever else holds them.
CREATE TABLE job_exclusion (
    job TEXT COLLATE "C" NOT NULL REFERENCES job (id),
    kind TEXT COLLATE "C" NOT NULL,
    target TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (job, kind, target)
);
CREATE INDEX job_exclusion_target ON job_exclusion (kind, target);

-- A condition (CEL) as a destination of a job; empty for none.
ALTER TABLE job ADD COLUMN clients_where TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX job_clients_where ON job (state) WHERE clients_where <> '';

-- The clients that a job's condition has reached.
CREATE TABLE job_matched (
    job TEXT COLLATE "C" NOT NULL REFERENCES job (id),
    client TEXT COLLATE "C" NOT NULL REFERENCES client (id),
    PRIMARY KEY (job, client)
);
CREATE INDEX job_matched_client ON job_matched (client, job);

-- What an attempt is for, and what the newest of an execution, or the next one if it is queued, is for.
ALTER TABLE attempt ADD COLUMN purpose TEXT COLLATE "C" NOT NULL DEFAULT 'ORDER';
ALTER TABLE execution ADD COLUMN purpose TEXT COLLATE "C" NOT NULL DEFAULT 'ORDER';

-- How often what was installed was found missing, and when it is looked at next; null for never.
ALTER TABLE execution ADD COLUMN drifts BIGINT NOT NULL DEFAULT 0;
ALTER TABLE execution ADD COLUMN check_ms BIGINT;
CREATE INDEX execution_drifts ON execution (job) WHERE drifts > 0;
CREATE INDEX execution_check ON execution (client, check_ms) WHERE check_ms IS NOT NULL;

-- The job that a job puts back, and which of its packages each client gets for that (JSON, their numbers).
ALTER TABLE job ADD COLUMN rolls_back TEXT COLLATE "C";
ALTER TABLE job_matched ADD COLUMN picks TEXT COLLATE "C" NOT NULL DEFAULT '[]';
