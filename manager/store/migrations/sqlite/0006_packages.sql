-- What of a manifest the manager's decisions go by (JSON); a version from before has said nothing of it.
ALTER TABLE package_version ADD COLUMN terms TEXT NOT NULL DEFAULT '{}';

-- A version that is offered to nobody any more, and why.
ALTER TABLE package_version ADD COLUMN withdrawn_ms INTEGER;
ALTER TABLE package_version ADD COLUMN withdraw_reason TEXT NOT NULL DEFAULT '';

-- INSTALL or UNINSTALL, and the values of parameters that the job gives (JSON).
ALTER TABLE job_package ADD COLUMN intent TEXT NOT NULL DEFAULT 'INSTALL';
ALTER TABLE job_package ADD COLUMN given TEXT NOT NULL DEFAULT '{}';
