-- The catalogue. `version` is the newest of a type, and goes on after a deletion; `settings` is JSON, NULL once the type
-- was deleted; `generation` is the id of the event of the newest change.
CREATE TABLE event_types (
    name       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    version    BIGINT NOT NULL,
    schema     TEXT NOT NULL,
    settings   TEXT,
    generation BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);
CREATE INDEX event_types_generation ON event_types (generation);

-- All versions of their schemas.
CREATE TABLE event_type_versions (
    name       TEXT COLLATE "C" NOT NULL,
    version    BIGINT NOT NULL,
    schema     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (name, version)
);

-- The digests of the files that were put, in lower-case hex digits.
CREATE TABLE event_type_files (
    name   TEXT COLLATE "C" NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (name, digest)
);
