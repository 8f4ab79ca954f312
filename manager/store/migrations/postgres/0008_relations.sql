-- Which versions depend on a package, or take its place, by that package's name: it need not be there.
CREATE TABLE package_relation (
    version TEXT COLLATE "C" NOT NULL REFERENCES package_version (uid),
    kind TEXT COLLATE "C" NOT NULL,
    other TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (version, kind, other)
);
CREATE INDEX package_relation_other ON package_relation (kind, other, version);
INSERT INTO package_relation (version, kind, other)
    SELECT DISTINCT v.uid, 'DEPENDS_ON', d.value->>'package'
    FROM package_version v CROSS JOIN LATERAL jsonb_array_elements(v.terms::jsonb->'depends_on') d;
INSERT INTO package_relation (version, kind, other)
    SELECT DISTINCT v.uid, 'SUPERSEDES', d.value->>'package'
    FROM package_version v CROSS JOIN LATERAL jsonb_array_elements(v.terms::jsonb->'supersedes') d;

-- For whom a package of a job is there (JSON); nobody: it was asked for.
ALTER TABLE job_package ADD COLUMN needed TEXT COLLATE "C" NOT NULL DEFAULT '[]';
