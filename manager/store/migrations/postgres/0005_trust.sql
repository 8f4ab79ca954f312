-- What publishers say, as they signed it: every trust document since the first, and every revocation list.

CREATE TABLE trust_document (
    version BIGINT NOT NULL PRIMARY KEY,
    document BYTEA NOT NULL,
    created_ms BIGINT NOT NULL,
    creator TEXT COLLATE "C" NOT NULL
);

INSERT INTO trust_document (version, document, created_ms, creator)
    SELECT 1, value, 0, 'manager' FROM setting WHERE key = 'trust_document';
DELETE FROM setting WHERE key = 'trust_document';

CREATE TABLE revocation_list (
    epoch BIGINT NOT NULL,
    version BIGINT NOT NULL,
    document BYTEA NOT NULL,
    created_ms BIGINT NOT NULL,
    creator TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (epoch, version)
);
