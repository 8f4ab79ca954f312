-- Maintenance windows of groups; the hours say when one is open (JSON).
CREATE TABLE maintenance_window (
    uid TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    group_uid TEXT COLLATE "C" NOT NULL,
    hours TEXT COLLATE "C" NOT NULL,
    description TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    deleted_ms BIGINT,
    change BIGINT NOT NULL
);
CREATE UNIQUE INDEX maintenance_window_name ON maintenance_window (name) WHERE deleted_ms IS NULL;
CREATE INDEX maintenance_window_group ON maintenance_window (group_uid) WHERE deleted_ms IS NULL;
CREATE INDEX maintenance_window_change ON maintenance_window (change);

-- Leases that last longer than the usual one, written down before they are given: a cancellation waits for their end.
CREATE TABLE long_lease (
    attempt TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    until_ms BIGINT NOT NULL,
    seconds BIGINT NOT NULL
);
CREATE INDEX long_lease_until ON long_lease (until_ms);
