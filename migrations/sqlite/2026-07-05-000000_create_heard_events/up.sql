-- Events that came by the publish/subscribe of Redis, and so do not go out there again. Removed after the event.
CREATE TABLE heard_events (
    event_id INTEGER NOT NULL PRIMARY KEY
) STRICT;
