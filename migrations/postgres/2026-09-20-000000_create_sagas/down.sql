DROP TABLE saga_names;
DROP TABLE saga_declarations;
DROP TABLE saga_definitions;
DROP TABLE saga_counts;
DROP TABLE saga_awaits;
DROP TABLE saga_journal;
DROP TABLE sagas;
