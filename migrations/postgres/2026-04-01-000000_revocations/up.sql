-- Whom operators have revoked: a configured token by its name (kind "token"), or JWTs by "sub" or "jti".
CREATE TABLE revocations (
    kind        TEXT    NOT NULL,
    value       TEXT    NOT NULL,
    -- Microseconds since 1970.
    revoked_at  BIGINT  NOT NULL,
    PRIMARY KEY (kind, value)
);
