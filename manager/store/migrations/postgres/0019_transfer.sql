-- How fast bytes may flow. The hours say when (JSON).
CREATE TABLE transfer_limit (
    uid TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    scope TEXT COLLATE "C" NOT NULL,
    group_uid TEXT COLLATE "C" REFERENCES client_group (uid),
    rate BIGINT NOT NULL,
    hours TEXT COLLATE "C" NOT NULL,
    creator TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX transfer_limit_group ON transfer_limit (group_uid) WHERE group_uid IS NOT NULL;

-- The groups whose members get no bytes.
CREATE TABLE transfer_suspension (
    group_uid TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES client_group (uid),
    creator TEXT COLLATE "C" NOT NULL,
    since_ms BIGINT NOT NULL
);
