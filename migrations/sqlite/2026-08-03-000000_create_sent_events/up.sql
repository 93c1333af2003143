-- Under which UUID an event goes out by the publish/subscribe of Redis, so that it is known when it comes in again. Removed
-- after the event.
CREATE TABLE sent_events (
    uuid     BLOB    NOT NULL PRIMARY KEY,
    event_id INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sent_events_event ON sent_events (event_id);
