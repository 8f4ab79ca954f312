-- What the manager itself holds a queued row back by (a word; empty if by nothing), in which stage of its job it was let go (from
-- 1; 0 for none), and its place in the order of the stages.
ALTER TABLE execution ADD COLUMN hold TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE execution ADD COLUMN stage BIGINT NOT NULL DEFAULT 0;
ALTER TABLE execution ADD COLUMN turn BIGINT NOT NULL DEFAULT 0;
DROP INDEX execution_queued;
CREATE INDEX execution_queued ON execution (client) WHERE state = 'QUEUED' AND hold = '';
CREATE INDEX execution_staged ON execution (job, turn, client) WHERE state = 'QUEUED' AND hold = 'STAGE';
CREATE INDEX execution_stage ON execution (job, stage, state) WHERE stage > 0;

-- How far the stages of a job are (JSON), and by what its new rows are held.
CREATE TABLE rollout (
    job TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES job (id),
    hold TEXT COLLATE "C" NOT NULL,
    position TEXT COLLATE "C" NOT NULL
);
