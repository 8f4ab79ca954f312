-- Maintenance windows of groups; the hours say when one is open (JSON).
CREATE TABLE maintenance_window (
    uid TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    group_uid TEXT NOT NULL,
    hours TEXT NOT NULL,
    description TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    deleted_ms INTEGER,
    change INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX maintenance_window_name ON maintenance_window (name) WHERE deleted_ms IS NULL;
CREATE INDEX maintenance_window_group ON maintenance_window (group_uid) WHERE deleted_ms IS NULL;
CREATE INDEX maintenance_window_change ON maintenance_window (change);

-- Leases that last longer than the usual one, written down before they are given: a cancellation waits for their end.
CREATE TABLE long_lease (
    attempt TEXT NOT NULL PRIMARY KEY,
    until_ms INTEGER NOT NULL,
    seconds INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX long_lease_until ON long_lease (until_ms);
