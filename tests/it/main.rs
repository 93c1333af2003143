//! Black-box tests: the real program, real sockets, real databases; one module per section of the promise.

mod support;

mod access;
mod admin;
mod admission;
mod batch;
mod commands;
mod config;
mod documents;
#[cfg(feature = "fault-injection")]
mod faults;
mod health;
mod hostile;
mod http;
mod kill_storm;
mod lifecycle;
mod outages;
mod publish;
mod python;
mod read;
mod resume_model;
mod retention;
mod websocket;
mod websocket_asked;
