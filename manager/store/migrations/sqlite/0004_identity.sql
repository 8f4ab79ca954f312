-- When a client's machine was replaced: what was installed before is gone. How far the machine's clock is ahead of ours.
ALTER TABLE client ADD COLUMN replaced_ms INTEGER;
ALTER TABLE client ADD COLUMN skew_ms INTEGER;

-- The client whose machine a token replaces.
ALTER TABLE token ADD COLUMN replaces TEXT;

-- The machines that showed one client's key, where nobody can say which of them is the client, until an operator has said so
-- (`kept`) and that machine has a key of its own.
CREATE TABLE shared_key (
    client TEXT NOT NULL REFERENCES client (id),
    machine_id TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    address TEXT NOT NULL,
    session_counter INTEGER NOT NULL,
    serial TEXT NOT NULL,
    seen_ms INTEGER NOT NULL,
    kept INTEGER NOT NULL,
    PRIMARY KEY (client, machine_id, boot_id)
) STRICT;

-- The certificates (never the keys) of the issuing CAs whose certificates every manager accepts, for ever or until a time.
CREATE TABLE issuing_ca (
    certificate BLOB NOT NULL PRIMARY KEY,
    authority TEXT NOT NULL,
    until_ms INTEGER
) STRICT;
