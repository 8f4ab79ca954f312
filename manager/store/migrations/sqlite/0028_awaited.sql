-- Since when nothing would be offered to a client that is awaited, and was noted: that time does not count.
ALTER TABLE awaited ADD COLUMN held_ms INTEGER;
