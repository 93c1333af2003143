DROP TABLE durable_marks;
DROP TABLE durables;
