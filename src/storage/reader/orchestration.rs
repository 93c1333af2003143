//! What the orchestrator and the clients of services read: calls, and instances of sagas.

use super::Reader;
use crate::domain::call::{CallHistory, CallId};
use crate::domain::event::Timestamp;
use crate::domain::routes::ServiceId;
use crate::domain::saga::{Correlation, State};
use crate::storage::calls::{self, ClaimedCall, EndedCall};
use crate::storage::error::StoreError;
use crate::storage::sagas::{self, DeclaredSaga, SagaFilter, SagaRecord, StoredDefinition, StoredSaga};

impl Reader {
    /// Calls of a service that are to be made by `now`, after the one that was due then, in the order in which they are
    /// due.
    pub async fn due_calls(
        &self,
        service: ServiceId,
        now: Timestamp,
        after: (Timestamp, CallId),
        limit: usize,
    ) -> Result<Vec<ClaimedCall>, StoreError> {
        self.read(move |connection| calls::due(connection, service, now, after, limit)).await
    }

    /// When the first call of a service is due that is not due at `now`.
    pub async fn next_due_call(&self, service: ServiceId, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.read(move |connection| calls::next_due(connection, service, now)).await
    }

    /// How many calls of a service have not ended.
    #[cfg(test)]
    pub async fn open_calls(&self, service: ServiceId) -> Result<u64, StoreError> {
        self.read(move |connection| calls::count_open(connection, service)).await
    }

    /// Open calls of services that are not among `configured`: nobody makes them.
    pub async fn stray_calls(
        &self,
        configured: Vec<ServiceId>,
        limit: usize,
    ) -> Result<Vec<(CallId, CallHistory)>, StoreError> {
        self.read(move |connection| calls::stray(connection, &configured, limit)).await
    }

    /// Calls that have ended after this place, in the order in which they ended.
    pub async fn ended_calls(&self, after: i64, limit: usize) -> Result<Vec<EndedCall>, StoreError> {
        self.read(move |connection| calls::ended(connection, after, limit)).await
    }

    /// The instances of sagas that events may be for: of each correlation value the one that holds it, the newest one that
    /// has ended and the first one that is queued, and those that await one of the keys. Each once.
    pub async fn concerned_sagas(
        &self,
        values: Vec<(String, Correlation)>,
        keys: Vec<String>,
    ) -> Result<Vec<StoredSaga>, StoreError> {
        self.read(move |connection| sagas::concerned(connection, &values, &keys)).await
    }

    /// These instances of sagas, as far as there are.
    pub async fn sagas(&self, ids: Vec<String>) -> Result<Vec<StoredSaga>, StoreError> {
        self.read(move |connection| sagas::by_ids(connection, &ids)).await
    }

    /// Instances of which a timer is due, the oldest first.
    pub async fn due_sagas(&self, now: Timestamp, limit: usize) -> Result<Vec<StoredSaga>, StoreError> {
        self.read(move |connection| sagas::due(connection, now, limit)).await
    }

    /// Queued instances that may begin, since nobody holds their values, the oldest first.
    pub async fn startable_sagas(&self, limit: usize) -> Result<Vec<StoredSaga>, StoreError> {
        self.read(move |connection| sagas::startable(connection, limit)).await
    }

    /// When the first timer of an instance is due.
    pub async fn next_saga_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(sagas::next_due).await
    }

    /// The instance that was begun by hand with this idempotency key.
    pub async fn saga_of_start_key(&self, saga: String, key: String) -> Result<Option<String>, StoreError> {
        self.read(move |connection| sagas::of_start_key(connection, &saga, &key)).await
    }

    /// How many instances there are of each saga in each state.
    pub async fn saga_counts(&self) -> Result<Vec<(String, State, u64)>, StoreError> {
        self.read(sagas::counts).await
    }

    /// Instances, the newest first; those before `after`, if it is given.
    pub async fn list_sagas(
        &self,
        filter: SagaFilter,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<SagaRecord>, StoreError> {
        self.read(move |connection| sagas::list(connection, &filter, after.as_deref(), limit)).await
    }

    /// All definitions that are kept.
    pub async fn saga_definitions(&self) -> Result<Vec<StoredDefinition>, StoreError> {
        self.read(sagas::definitions).await
    }

    /// The sagas that begin new instances.
    pub async fn declared_sagas(&self) -> Result<Vec<DeclaredSaga>, StoreError> {
        self.read(sagas::declared).await
    }
}
