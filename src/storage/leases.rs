//! Leases: which process delivers to a service or to the members of a consumer.
//!
//! On PostgreSQL a lease is an advisory lock of the writer's session. It is independent of transactions and outlives
//! one that fails, so it is not a [`Write`](super::Write).

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
    /// Asks for the lease of a service, which lasts as long as the writer's connection. Returns whether it was granted,
    /// and the stored state of the service. On SQLite there is no other process, and every lease is granted.
    pub fn lease_service(&mut self, service: ServiceId) -> Result<LeasedService, StoreError> {
        self.with(|connection| {
            let grant = match connection {
                Connection::Sqlite(_) => Grant::Kept,
                Connection::Postgres(session) => postgres::lease(session, service)?,
            };
            outbox::leased(connection, service, grant)
        })
    }

    /// Asks for the leases of these consumers, which last as long as the writer's connection or until
    /// [released](Self::release_consumer). `known` says for each in which fencing epoch this process holds its lease
    /// already, if it does; then its marks are not read again. Consumers that were deleted are left out.
    ///
    /// A lease that was taken just now begins a new fencing epoch, so that late writes of the former holder are void.
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

    /// Releases the lease of a consumer, so that another process can take it.
    pub fn release_consumer(&mut self, service: ServiceId) -> Result<(), StoreError> {
        self.with(|connection| match connection {
            Connection::Sqlite(_) => Ok(()),
            Connection::Postgres(session) => postgres::release(session, service),
        })
    }
}
