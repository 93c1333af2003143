//! Event Handler: the central event service between microservices.
//!
//! # The floors, each importing only from those below
//!
//! - [`cli`]: the command line; it runs [`serve`].
//! - [`serve`]: the composition of everything else.
//! - [`web`]: HTTP and WebSocket endpoints: decode, send a message, encode.
//! - [`actors`]: the supervisor and its children; thin shells around the decisions of `domain`.
//! - [`runtime`]: what every actor needs: addresses, lives, supervised children, reports.
//! - [`access`]: who callers are, and how much they may ask for.
//! - [`storage`]: the log and the outbox, through diesel, on SQLite or PostgreSQL. Beside it [`bus`]: Redis.
//! - [`telemetry`]: logs, metrics, health, and the points at which tests inject faults.
//! - [`config`]: what is configured, read into types of the floors below.
//! - [`protocol`]: the wire types.
//! - [`transport`]: subscribers' connections as bytes.
//! - [`domain`]: pure decisions.
//!
//! The test `floors` holds this order, and finds circles of imports between modules side by side.
//!
//! # The life of an event
//!
//! `POST /publish` is read into a [`domain::event::NewEvent`] and handed to the worker's
//! [intake](actors::persistence::intake), which passes everything that became ready in one round to the
//! [persistence actor](actors::persistence). Persistence commits whatever waits in one transaction, gives the committed
//! batch to the [router](actors::router), and answers the publishers. The router hands the batch to the
//! [shard](actors::shard) of each worker and to the [consumers](actors::consumers). A shard queues each frame, encoded
//! once, for the connections that subscribed to it; the consumers give each event of a durable subscription to one of
//! its members. Whatever is lost after the commit is read again from the store.
//!
//! The deliveries of an event to services are committed with it. The [client](actors::client) of each service claims
//! them from the store, posts them as its [dispatcher](domain::dispatch) decides, and has persistence write down their
//! outcome.

pub mod access;
pub mod actors;
pub mod bus;
pub mod cli;
pub mod config;
pub mod domain;
pub mod protocol;
pub mod runtime;
pub mod serve;
pub mod storage;
pub mod telemetry;
pub mod transport;
pub mod web;
