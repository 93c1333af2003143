//! Which process delivers to a service, or the events of a durable subscription.
//!
//! On PostgreSQL a lease is an advisory lock of the writer's session: it is neither taken nor given up with a
//! transaction, but outlives one that fails. So leases are no writes of a group.

use crate::domain::lease::Grant;
use crate::domain::routes::ServiceId;

use super::connection::Connection;
use super::consumers::{self, LeasedConsumer};
use super::error::StoreError;
use super::outbox::{self, LeasedService};
use super::postgres;
use super::writer::Writer;
use crate::telemetry::faults::{self, FaultPoint};

impl Writer {
    /// Makes this process the only one that delivers to a service, for as long as the writer's connection lives;
    /// whether it is, and with what state. On SQLite there is no other.
    pub fn lease_service(&mut self, service: ServiceId) -> Result<LeasedService, StoreError> {
        self.with(|connection| {
            let grant = match connection {
                Connection::Sqlite(_) => Grant::Kept,
                Connection::Postgres(session) => postgres::lease(session, service)?,
            };
            outbox::leased(connection, service, grant)
        })
    }

    /// The same for many, each with the epoch in which this process holds it, if it does: then its marks are not read
    /// again. Those that were deleted are left out.
    ///
    /// Whoever takes one begins a new epoch of it: what another process, which held it before and does not know that yet,
    /// has still to store is void.
    pub fn lease_consumers(&mut self, known: &[(ServiceId, Option<i64>)]) -> Result<Vec<LeasedConsumer>, StoreError> {
        self.with(|connection| {
            let services: Vec<ServiceId> = known.iter().map(|(service, _)| *service).collect();
            let grants = match connection {
                Connection::Sqlite(_) => vec![Grant::Kept; services.len()],
                Connection::Postgres(session) => postgres::lease_all(session, &services)?,
            };
            let grants =
                if faults::strikes(FaultPoint::LeaseRefused) { vec![Grant::Elsewhere; grants.len()] } else { grants };
            let taken: Vec<ServiceId> =
                services.iter().zip(&grants).filter(|(_, grant)| **grant == Grant::Taken).map(|(id, _)| *id).collect();
            consumers::begin_epochs(connection, &taken)?;
            consumers::leased(connection, known, &grants)
        })
    }

    /// Lets another process hold it.
    pub fn release_consumer(&mut self, service: ServiceId) -> Result<(), StoreError> {
        self.with(|connection| match connection {
            Connection::Sqlite(_) => Ok(()),
            Connection::Postgres(session) => postgres::release(session, service),
        })
    }
}
