DROP TABLE entity_types;
DROP TABLE entities;
