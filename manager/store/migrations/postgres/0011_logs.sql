-- The ends of log files of packages that failed, in parts; without bytes that anybody decides by.
CREATE TABLE attempt_log (
    attempt TEXT COLLATE "C" NOT NULL REFERENCES attempt (id),
    item BIGINT NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    part BIGINT NOT NULL,
    cut BIGINT NOT NULL,
    size BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (attempt, item, path, part)
);

-- How many bytes they are together: one row.
CREATE TABLE attempt_log_total (
    self BIGINT NOT NULL PRIMARY KEY CHECK (self = 1),
    bytes BIGINT NOT NULL
);
INSERT INTO attempt_log_total (self, bytes) VALUES (1, 0);
