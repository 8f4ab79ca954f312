-- Questions that operators ask the users of machines. The rule says what an answer may be (JSON).
CREATE TABLE question (
    uid TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    prompt TEXT NOT NULL,
    rule TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    deleted_ms INTEGER,
    change INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX question_name ON question (name) WHERE deleted_ms IS NULL;
CREATE INDEX question_change ON question (change);

-- Who answered: the answers themselves are in `client.answers`.
CREATE TABLE client_answer (
    question TEXT NOT NULL REFERENCES question (uid),
    client TEXT NOT NULL REFERENCES client (id),
    PRIMARY KEY (question, client)
) STRICT, WITHOUT ROWID;
