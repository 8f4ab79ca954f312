-- How far a cancellation is that an agent is asked for: what it had begun may go on to its end, and nothing follows it.
ALTER TABLE execution ADD COLUMN cancel_stage TEXT NOT NULL DEFAULT 'ASKED';
