-- Which clients a job is for when their turn comes (CEL), and what it requires of a machine besides its packages (JSON).
ALTER TABLE job ADD COLUMN condition TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN requirements TEXT NOT NULL DEFAULT '[]';
