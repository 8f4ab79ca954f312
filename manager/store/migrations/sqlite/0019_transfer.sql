-- How fast bytes may flow. The hours say when (JSON).
CREATE TABLE transfer_limit (
    uid TEXT NOT NULL PRIMARY KEY,
    scope TEXT NOT NULL,
    group_uid TEXT REFERENCES client_group (uid),
    rate INTEGER NOT NULL,
    hours TEXT NOT NULL,
    creator TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX transfer_limit_group ON transfer_limit (group_uid) WHERE group_uid IS NOT NULL;

-- The groups whose members get no bytes.
CREATE TABLE transfer_suspension (
    group_uid TEXT NOT NULL PRIMARY KEY REFERENCES client_group (uid),
    creator TEXT NOT NULL,
    since_ms INTEGER NOT NULL
) STRICT;
