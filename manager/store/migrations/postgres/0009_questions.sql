-- Questions that operators ask the users of machines. The rule says what an answer may be (JSON).
CREATE TABLE question (
    uid TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    prompt TEXT COLLATE "C" NOT NULL,
    rule TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    deleted_ms BIGINT,
    change BIGINT NOT NULL
);
CREATE UNIQUE INDEX question_name ON question (name) WHERE deleted_ms IS NULL;
CREATE INDEX question_change ON question (change);

-- Who answered: the answers themselves are in `client.answers`.
CREATE TABLE client_answer (
    question TEXT COLLATE "C" NOT NULL REFERENCES question (uid),
    client TEXT COLLATE "C" NOT NULL REFERENCES client (id),
    PRIMARY KEY (question, client)
);
