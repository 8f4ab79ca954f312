-- The facts of a client apart from it, so that a connection does not rewrite them, and a package that changed neither.
CREATE TABLE client_facts (
    client TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES client (id),
    facts TEXT COLLATE "C" NOT NULL,
    digest BYTEA,
    taken_ms BIGINT
);
INSERT INTO client_facts (client, facts, digest, taken_ms) SELECT id, facts, facts_digest, facts_ms FROM client;
ALTER TABLE client DROP COLUMN facts;
ALTER TABLE client DROP COLUMN facts_digest;
ALTER TABLE client DROP COLUMN facts_ms;

-- What is installed anywhere, and on how many clients: kept, not counted.
CREATE TABLE software (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    manager TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    architecture TEXT COLLATE "C" NOT NULL,
    clients BIGINT NOT NULL,
    UNIQUE (name, manager, version, architecture)
);
CREATE INDEX software_unused ON software (id) WHERE clients = 0;

-- Which client has it.
CREATE TABLE client_software (
    client TEXT COLLATE "C" NOT NULL REFERENCES client (id),
    software BIGINT NOT NULL REFERENCES software (id),
    PRIMARY KEY (client, software)
);
CREATE INDEX client_software_software ON client_software (software, client);
