-- Which versions depend on a package, or take its place, by that package's name: it need not be there.
CREATE TABLE package_relation (
    version TEXT NOT NULL REFERENCES package_version (uid),
    kind TEXT NOT NULL,
    other TEXT NOT NULL,
    PRIMARY KEY (version, kind, other)
) STRICT, WITHOUT ROWID;
CREATE INDEX package_relation_other ON package_relation (kind, other, version);
INSERT INTO package_relation (version, kind, other)
    SELECT DISTINCT v.uid, 'DEPENDS_ON', d.value->>'package' FROM package_version v, json_each(v.terms, '$.depends_on') d;
INSERT INTO package_relation (version, kind, other)
    SELECT DISTINCT v.uid, 'SUPERSEDES', d.value->>'package' FROM package_version v, json_each(v.terms, '$.supersedes') d;

-- For whom a package of a job is there (JSON); nobody: it was asked for.
ALTER TABLE job_package ADD COLUMN needed TEXT NOT NULL DEFAULT '[]';
