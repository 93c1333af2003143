//! Event Handler: the central event service between microservices.

pub mod domain;
pub mod web;
