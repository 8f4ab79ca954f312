-- What an operator may do: a JSON list of [role, null for everywhere or a list of groups' uids].
ALTER TABLE operator ADD COLUMN roles TEXT NOT NULL DEFAULT '[]';
ALTER TABLE operator ADD COLUMN creator TEXT NOT NULL DEFAULT 'manager';
ALTER TABLE operator ADD COLUMN change INTEGER NOT NULL DEFAULT 0;
-- Until now there was the first operator, and it could do everything.
UPDATE operator SET roles = '[["ADMIN",null]]';
