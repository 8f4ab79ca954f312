-- The ends of log files of packages that failed, in parts; without bytes that anybody decides by.
CREATE TABLE attempt_log (
    attempt TEXT NOT NULL REFERENCES attempt (id),
    item INTEGER NOT NULL,
    path TEXT NOT NULL,
    part INTEGER NOT NULL,
    cut INTEGER NOT NULL,
    size INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (attempt, item, path, part)
) STRICT;

-- How many bytes they are together: one row.
CREATE TABLE attempt_log_total (
    self INTEGER NOT NULL PRIMARY KEY CHECK (self = 1),
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO attempt_log_total (self, bytes) VALUES (1, 0);
