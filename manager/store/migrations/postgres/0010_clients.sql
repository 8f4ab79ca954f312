-- Since when a client is in no list and in reach of no job.
ALTER TABLE client ADD COLUMN archived_ms BIGINT;

-- By what two clients are probably the same machine; none of those that were archived or removed.
CREATE TABLE client_likeness (
    key TEXT COLLATE "C" NOT NULL,
    client TEXT COLLATE "C" NOT NULL REFERENCES client (id),
    PRIMARY KEY (key, client)
);
CREATE INDEX client_likeness_client ON client_likeness (client);
