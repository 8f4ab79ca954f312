-- When an operator took a client back from the archive last: its silence counts from then.
ALTER TABLE client ADD COLUMN unarchived_ms INTEGER;
