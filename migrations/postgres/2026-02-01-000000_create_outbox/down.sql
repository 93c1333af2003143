DROP TABLE schedules;
DROP TABLE delivery_jobs;
DROP TABLE delivery_attempts;
DROP TABLE deliveries;
DROP TABLE services;
