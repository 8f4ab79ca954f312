-- Since when the client of a row may have been silent (milliseconds since 1970): since its stage let it go, it was offered, or it last
-- left a wait that may last.
ALTER TABLE execution ADD COLUMN quiet_ms BIGINT NOT NULL DEFAULT 0;
UPDATE execution SET quiet_ms = entered_ms;
DROP INDEX execution_stage;
CREATE INDEX execution_stage ON execution (job, stage, state, client, purpose) WHERE stage > 0;
-- The newest outcomes of a job.
CREATE INDEX execution_outcome ON execution (job, change) WHERE state IN ('SUCCEEDED', 'FAILED', 'INTERRUPTED') AND purpose <> 'LEAVE';
