DROP TABLE event_type_files;
DROP TABLE event_type_versions;
DROP TABLE event_types;
