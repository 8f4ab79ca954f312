-- The chain that an entry belongs to is named by the sequence of its first entry; 0 for entries from before there were chains.
ALTER TABLE audit ADD COLUMN chain BIGINT NOT NULL DEFAULT 0;
ALTER TABLE audit ADD COLUMN number BIGINT NOT NULL DEFAULT 0;
ALTER TABLE audit ADD COLUMN previous BYTEA NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN hash BYTEA NOT NULL DEFAULT '';
CREATE UNIQUE INDEX audit_chain ON audit (chain, number) WHERE chain > 0;

-- Entries that were sealed together, in the order of the log. The record stays when its entries are dropped.
CREATE TABLE audit_segment (
    number BIGINT NOT NULL PRIMARY KEY,
    first BIGINT NOT NULL,
    last BIGINT NOT NULL,
    entries BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    ends TEXT COLLATE "C" NOT NULL,
    sealed_ms BIGINT NOT NULL,
    dropped_ms BIGINT
);
CREATE INDEX audit_segment_dropped ON audit_segment (last) WHERE dropped_ms IS NOT NULL;

-- Whatever a manager is asked for, and whatever mistake it has: an entry is never changed, and only those of a segment that
-- is sealed and marked as dropped are deleted.
CREATE FUNCTION audit_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND EXISTS (SELECT 1 FROM audit_segment s WHERE s.dropped_ms IS NOT NULL AND s.last >= OLD.sequence) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'an entry of the audit log is never changed, and kept until its segment is dropped';
END
$$;
CREATE TRIGGER audit_keep BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_keep();

-- Clients that have told what happened after the backup from which this database was restored.
CREATE TABLE caught_up (
    client TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES client (id)
);
