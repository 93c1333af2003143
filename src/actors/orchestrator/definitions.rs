//! The definitions that the store keeps, read once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::saga::{Definition, Instance};
use crate::storage::{Reader, StoreError, StoredSaga};

type Known = HashMap<(String, u32), Result<Arc<Definition>, String>>;

/// See the module.
#[derive(Default)]
pub struct Definitions {
    known: Mutex<Known>,
    are_declared: AtomicBool,
}

impl Definitions {
    /// The store has what this node declares.
    pub fn set_declared(&self) {
        self.are_declared.store(true, Relaxed);
    }

    /// Whether the store has what this node declares.
    pub fn are_declared(&self) -> bool {
        self.are_declared.load(Relaxed)
    }

    /// One of them, or why it cannot be read.
    pub async fn get(
        &self,
        saga: &str,
        version: u32,
        reader: &Reader,
    ) -> Result<Result<Arc<Definition>, String>, StoreError> {
        let key = (saga.to_owned(), version);
        if let Some(known) = self.known().get(&key) {
            return Ok(known.clone());
        }
        self.load(reader).await?;
        let missing = || Err(format!("the definition of version {version} is not in the store"));
        Ok(self.known().get(&key).cloned().unwrap_or_else(missing))
    }

    /// Reads those that are not known.
    pub async fn load(&self, reader: &Reader) -> Result<(), StoreError> {
        let stored = reader.saga_definitions().await?;
        let mut known = self.known();
        for stored in stored {
            let parse = || Definition::from_store(&stored.text).map(Arc::new).map_err(|error| error.to_string());
            known.entry((stored.saga, stored.version)).or_insert_with(parse);
        }
        Ok(())
    }

    /// Those that can be read.
    pub fn all(&self) -> Vec<Arc<Definition>> {
        self.known().values().flatten().cloned().collect()
    }

    /// What the journal of an instance says, or why it cannot be read.
    pub async fn replay(
        &self,
        stored: &StoredSaga,
        reader: &Reader,
    ) -> Result<Result<(Arc<Definition>, Instance), String>, StoreError> {
        let journal = match &stored.journal {
            Ok(journal) => journal,
            Err(error) => return Ok(Err(format!("its journal cannot be read: {error}"))),
        };
        let new = &stored.record.saga;
        let definition = match self.get(&new.origin.saga, new.origin.version, reader).await? {
            Ok(definition) => definition,
            Err(error) => return Ok(Err(error)),
        };
        let steps = definition.steps.len();
        if journal.iter().filter_map(|entry| entry.fact.steps().max()).any(|step| step >= steps) {
            return Ok(Err("its journal names steps that its definition has not".to_owned()));
        }
        let instance = Instance::replay(new.origin.clone(), &definition, new.made_at, journal);
        Ok(Ok((definition, instance)))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
