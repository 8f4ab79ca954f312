-- The plan by which a job that waits was run, and the versions that a change comes to (JSON): what is agreed to is what is done.
ALTER TABLE approval ADD COLUMN plan TEXT;
ALTER TABLE approval ADD COLUMN packages TEXT NOT NULL DEFAULT '[]';
CREATE INDEX approval_plan ON approval (plan) WHERE plan IS NOT NULL;

-- What waits was asked for without them: nobody can agree to it any more.
UPDATE approval SET state = 'EXPIRED', decided_ms = created_ms, request = X'', reason = 'the manager is another version now; have it ordered again'
WHERE state = 'PENDING';

-- A request that is answered by what becomes of the change that it ordered.
ALTER TABLE request ADD COLUMN approval TEXT;

-- When somebody else last made an operator what it is: made it, gave it roles, or a certificate; and since when, and until when, it can
-- agree to anything (milliseconds since 1970).
ALTER TABLE operator ADD COLUMN given_ms INTEGER;
ALTER TABLE operator ADD COLUMN approver_since_ms INTEGER;
ALTER TABLE operator ADD COLUMN approver_until_ms INTEGER;
UPDATE operator SET approver_since_ms = created_ms WHERE roles LIKE '%["APPROVER",null]%' AND revoked_ms IS NULL;
