-- What publishers say, as they signed it: every trust document since the first, and every revocation list.

CREATE TABLE trust_document (
    version INTEGER NOT NULL PRIMARY KEY,
    document BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    creator TEXT NOT NULL
) STRICT;

INSERT INTO trust_document (version, document, created_ms, creator)
    SELECT 1, value, 0, 'manager' FROM setting WHERE key = 'trust_document';
DELETE FROM setting WHERE key = 'trust_document';

CREATE TABLE revocation_list (
    epoch INTEGER NOT NULL,
    version INTEGER NOT NULL,
    document BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    creator TEXT NOT NULL,
    PRIMARY KEY (epoch, version)
) STRICT;
