-- The plan by which a job that waits was run, and the versions that a change comes to (JSON): what is agreed to is what is done.
ALTER TABLE approval ADD COLUMN plan TEXT;
ALTER TABLE approval ADD COLUMN packages TEXT NOT NULL DEFAULT '[]';

-- A request that is answered by what becomes of the change that it ordered.
ALTER TABLE request ADD COLUMN approval TEXT;
