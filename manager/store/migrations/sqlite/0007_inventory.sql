-- The facts of a client apart from it, so that a connection does not rewrite them, and a package that changed neither.
CREATE TABLE client_facts (
    client TEXT NOT NULL PRIMARY KEY REFERENCES client (id),
    facts TEXT NOT NULL,
    digest BLOB,
    taken_ms INTEGER
) STRICT;
INSERT INTO client_facts (client, facts, digest, taken_ms) SELECT id, facts, facts_digest, facts_ms FROM client;
ALTER TABLE client DROP COLUMN facts;
ALTER TABLE client DROP COLUMN facts_digest;
ALTER TABLE client DROP COLUMN facts_ms;

-- What is installed anywhere, and on how many clients: kept, not counted.
CREATE TABLE software (
    id INTEGER NOT NULL PRIMARY KEY,
    manager TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    architecture TEXT NOT NULL,
    clients INTEGER NOT NULL,
    UNIQUE (name, manager, version, architecture)
) STRICT;
CREATE INDEX software_unused ON software (id) WHERE clients = 0;

-- Which client has it.
CREATE TABLE client_software (
    client TEXT NOT NULL REFERENCES client (id),
    software INTEGER NOT NULL REFERENCES software (id),
    PRIMARY KEY (client, software)
) STRICT, WITHOUT ROWID;
CREATE INDEX client_software_software ON client_software (software, client);
