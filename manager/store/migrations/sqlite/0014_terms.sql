-- How a job is carried out (JSON).
ALTER TABLE job ADD COLUMN terms TEXT NOT NULL DEFAULT '{}';
