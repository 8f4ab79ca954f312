-- What people call jobs. An alias is the newest job's that got it.
CREATE TABLE job_alias (
    alias TEXT NOT NULL PRIMARY KEY,
    job TEXT NOT NULL UNIQUE REFERENCES job (id)
) STRICT, WITHOUT ROWID;

-- What was put there by files: the uid of a group, policy or question, the id of a job.
CREATE TABLE configured (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;
