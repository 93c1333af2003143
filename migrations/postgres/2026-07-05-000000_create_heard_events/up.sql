-- Events that came by the publish/subscribe of Redis, and so do not go out there again. Removed after the event.
CREATE TABLE heard_events (
    event_id BIGINT NOT NULL PRIMARY KEY
);
