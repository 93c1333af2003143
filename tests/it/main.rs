//! Black-box tests: the real program, real sockets, real databases; one module per section of the promise.

mod support;

mod access;
mod admin;
mod admission;
mod batch;
mod cloud_events;
mod commands;
mod config;
mod conformance;
mod damage;
mod databases;
mod deliveries_storm;
mod documents;
mod drain;
mod durable;
mod durable_model;
#[cfg(feature = "fault-injection")]
mod durable_saves;
mod durable_shown;
mod example_services;
mod examples;
mod examples_browser;
#[cfg(feature = "fault-injection")]
mod faults;
mod filters;
mod health;
mod hostile;
mod http;
mod jobs;
mod jwt;
mod kill_storm;
mod lifecycle;
mod limits;
mod log_identity;
mod long_poll;
mod ndjson;
mod outages;
mod pooler;
mod publish;
mod python;
mod read;
mod resume_model;
mod retention;
mod schedules;
mod services;
mod services_cluster;
mod sessions;
mod sse;
mod store_file;
mod tokens;
mod trace;
mod websocket;
mod websocket_asked;
mod websocket_lines;
