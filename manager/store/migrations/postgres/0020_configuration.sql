-- What people call jobs. An alias is the newest job's that got it.
CREATE TABLE job_alias (
    alias TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    job TEXT COLLATE "C" NOT NULL UNIQUE REFERENCES job (id)
);

-- What was put there by files: the uid of a group, policy or question, the id of a job.
CREATE TABLE configured (
    kind TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, id)
);
