-- Deltas between versions, by the manifests of both: asked for, taken by a manager to be made (which holds for a while), and made. One
-- that was made and has no digest is of no use. The package is the new version's.
CREATE TABLE delta (
    old_manifest BLOB NOT NULL,
    new_manifest BLOB NOT NULL,
    package TEXT NOT NULL REFERENCES package (uid),
    asked_ms INTEGER NOT NULL,
    taken_ms INTEGER,
    tries INTEGER NOT NULL DEFAULT 0,
    made_ms INTEGER,
    digest BLOB,
    length INTEGER,
    bytes INTEGER,
    PRIMARY KEY (new_manifest, old_manifest)
) STRICT, WITHOUT ROWID;
CREATE INDEX delta_package ON delta (package, asked_ms, new_manifest, old_manifest);
CREATE INDEX delta_unmade ON delta (asked_ms, new_manifest, old_manifest) WHERE made_ms IS NULL;
CREATE INDEX delta_digest ON delta (digest) WHERE digest IS NOT NULL;
CREATE INDEX package_version_manifest ON package_version (manifest, uid) WHERE deleted_ms IS NULL;
