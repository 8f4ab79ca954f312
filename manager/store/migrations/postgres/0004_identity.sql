-- When a client's machine was replaced: what was installed before is gone. How far the machine's clock is ahead of ours.
ALTER TABLE client ADD COLUMN replaced_ms BIGINT;
ALTER TABLE client ADD COLUMN skew_ms BIGINT;

-- The client whose machine a token replaces.
ALTER TABLE token ADD COLUMN replaces TEXT COLLATE "C";

-- The machines that showed one client's key, where nobody can say which of them is the client, until an operator has said so
-- (`kept`) and that machine has a key of its own.
CREATE TABLE shared_key (
    client TEXT COLLATE "C" NOT NULL REFERENCES client (id),
    machine_id TEXT COLLATE "C" NOT NULL,
    boot_id TEXT COLLATE "C" NOT NULL,
    address TEXT COLLATE "C" NOT NULL,
    session_counter BIGINT NOT NULL,
    serial TEXT COLLATE "C" NOT NULL,
    seen_ms BIGINT NOT NULL,
    kept BOOLEAN NOT NULL,
    PRIMARY KEY (client, machine_id, boot_id)
);

-- The certificates (never the keys) of the issuing CAs whose certificates every manager accepts, for ever or until a time.
CREATE TABLE issuing_ca (
    certificate BYTEA NOT NULL PRIMARY KEY,
    authority TEXT COLLATE "C" NOT NULL,
    until_ms BIGINT
);
