DROP TABLE service_commands;
