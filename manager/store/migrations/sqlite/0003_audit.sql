-- The chain that an entry belongs to is named by the sequence of its first entry; 0 for entries from before there were chains.
ALTER TABLE audit ADD COLUMN chain INTEGER NOT NULL DEFAULT 0;
ALTER TABLE audit ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
ALTER TABLE audit ADD COLUMN previous BLOB NOT NULL DEFAULT x'';
ALTER TABLE audit ADD COLUMN hash BLOB NOT NULL DEFAULT x'';
CREATE UNIQUE INDEX audit_chain ON audit (chain, number) WHERE chain > 0;

-- Entries that were sealed together, in the order of the log. The record stays when its entries are dropped.
CREATE TABLE audit_segment (
    number INTEGER NOT NULL PRIMARY KEY,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    hash BLOB NOT NULL,
    ends TEXT NOT NULL,
    sealed_ms INTEGER NOT NULL,
    dropped_ms INTEGER
) STRICT;
CREATE INDEX audit_segment_dropped ON audit_segment (last) WHERE dropped_ms IS NOT NULL;

-- Whatever a manager is asked for, and whatever mistake it has: an entry is never changed, and only those of a segment that
-- is sealed and marked as dropped are deleted.
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'an entry of the audit log is never changed');
END;
CREATE TRIGGER audit_is_kept_until_dropped BEFORE DELETE ON audit
WHEN NOT EXISTS (SELECT 1 FROM audit_segment s WHERE s.dropped_ms IS NOT NULL AND s.last >= OLD.sequence)
BEGIN
    SELECT RAISE(ABORT, 'an entry of the audit log is kept until its segment is dropped');
END;

-- Clients that have told what happened after the backup from which this database was restored.
CREATE TABLE caught_up (
    client TEXT NOT NULL PRIMARY KEY REFERENCES client (id)
) STRICT;
