DROP TABLE sent_events;
