//! Changes of event types: decided on what is stored, and stored if nobody has changed the type meanwhile.

use std::sync::Arc;

use super::persistence::Persistence;
use crate::domain::catalogue::change::{Decision, Put, check_version, comparison, decide};
use crate::domain::catalogue::{EventType, Mode, Ruling, Settings};
use crate::domain::entity::as_judged;
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::judgement::Finding;
use crate::domain::pattern::Pattern;
use crate::domain::schema::compat::Comparison;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::event_type::{changed, refused};
use crate::runtime::address::Address;
use crate::storage::{EventQuery, NewType, Order, Outcome, Reader, SharedCatalogue, TypeChange, Write};

/// How often a change is decided again because somebody else was faster.
const MAX_TRIES: usize = 10;
/// Events of the history that a new schema is tried on.
const HISTORY: usize = 1000;
/// Pages of events that are looked through for them, and the size of each.
const PAGES: usize = 20;
const PAGE: usize = 1000;

/// See the module. Clones share it.
#[derive(Clone)]
pub struct CatalogueDesk {
    pub reader: Reader,
    pub persistence: Address<Persistence>,
    pub catalogue: Arc<SharedCatalogue>,
}

/// What a change would mean.
pub struct Preview {
    pub comparison: Comparison,
    /// Whether the strict reasons count.
    pub is_strict: bool,
    /// How many of the newest events it would govern were tried.
    pub checked: usize,
    pub failing: Vec<(EventId, Finding)>,
}

impl CatalogueDesk {
    /// Puts a type. `file` is the digest of the file from which it comes.
    pub async fn put(&self, put: Put, file: Option<&str>) -> Result<Decision, ApiError> {
        let put = Arc::new(put);
        for _ in 0..MAX_TRIES {
            let stored = self.reader.event_type(put.name.clone()).await?;
            let based_on = stored.as_ref().map(|stored| stored.generation);
            let deciding = Arc::clone(&put);
            // A comparison may take long.
            let decision = actix_rt::task::spawn_blocking(move || decide(&deciding, stored.as_ref())).await;
            let decision = decision.map_err(failed)?.map_err(refused)?;
            if !decision.changes && file.is_none() {
                return Ok(decision);
            }
            let Put { name, schema, settings, .. } = &*put;
            let Decision { version, is_new_version, .. } = decision;
            let change = TypeChange {
                name: name.clone(),
                based_on,
                version,
                event: decision.changes.then(|| changed(name, version, settings.mode, "put")),
                new: Some(NewType { settings: settings.clone(), schema: schema.clone(), is_new_version }),
                file: file.map(str::to_owned),
            };
            if self.store(change).await? {
                return Ok(decision);
            }
        }
        Err(ApiError::transient(ErrorCode::Overloaded, "others change this event type at the same time"))
    }

    /// Puts a type that a file has, unless this content was put before.
    pub async fn put_file(&self, put: &Put, digest: &str) -> Result<(), ApiError> {
        if self.reader.type_files(put.name.clone()).await?.iter().any(|known| known == digest) {
            return Ok(());
        }
        let decision = self.put(put.clone(), Some(digest)).await?;
        if decision.changes {
            log::info!(event_type = put.name.as_str(), version = decision.version; "put an event type from its file");
        }
        Ok(())
    }

    /// Deletes a type. Returns the version that was the newest; none if there is no such type.
    pub async fn delete(&self, name: Pattern) -> Result<Option<u32>, ApiError> {
        for _ in 0..MAX_TRIES {
            let Some(stored) = self.reader.event_type(name.clone()).await? else { return Ok(None) };
            let EventType { version, generation, .. } = stored;
            let Some(Settings { mode, .. }) = stored.settings else { return Ok(None) };
            let change = TypeChange {
                name: name.clone(),
                based_on: Some(generation),
                version,
                event: Some(changed(&name, version, mode, "delete")),
                new: None,
                file: None,
            };
            if self.store(change).await? {
                return Ok(Some(version));
            }
        }
        Err(ApiError::transient(ErrorCode::Overloaded, "others change this event type at the same time"))
    }

    async fn store(&self, change: TypeChange) -> Result<bool, ApiError> {
        let outcome = self.persistence.commit(Write::ChangeEventType(change)).await?;
        Ok(outcome == Outcome::Changed(true))
    }

    /// What it would mean to put a type.
    pub async fn preview(&self, put: Put) -> Result<Preview, ApiError> {
        let stored = self.reader.event_type(put.name.clone()).await?;
        check_version(&put, stored.as_ref()).map_err(refused)?;
        let is_strict = stored.as_ref().and_then(EventType::live).is_some_and(|settings| settings.strict);
        let new = EventType {
            name: put.name.clone(),
            version: stored.as_ref().map_or(0, |stored| stored.version) + 1,
            schema: put.schema.clone(),
            settings: Some(Settings { mode: Mode::Enforce, ..put.settings.clone() }),
            generation: 0,
            changed_at: Timestamp::default(),
        };
        let events = self.governed(&new, HISTORY, |_| true).await?.0;
        let judged = actix_rt::task::spawn_blocking(move || {
            let (ruling, _) = Ruling::of(&new);
            let judge = |event: &Event| Some((event.id, ruling.judge(&as_judged(&event.name, &event.payload))?));
            (comparison(&put, stored.as_ref()), events.len(), events.iter().filter_map(judge).collect())
        });
        let (comparison, checked, failing) = judged.await.map_err(failed)?;
        Ok(Preview { comparison, is_strict, checked, failing })
    }

    /// The newest events that `of` governs, the newest first, at most `limit` of them: as long as they are `wanted`, as
    /// far as it was looked, and whether these are all.
    pub async fn governed(
        &self,
        of: &EventType,
        limit: usize,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<(Vec<Event>, bool), ApiError> {
        self.reader.learn_catalogue(&self.catalogue).await?;
        let (catalogue, _) = self.catalogue.get().after(std::slice::from_ref(of), of.generation);
        let (mut found, mut before) = (Vec::new(), None);
        for _ in 0..PAGES {
            let query = EventQuery {
                patterns: vec![of.name.clone()],
                before,
                limit: PAGE,
                order: Order::Desc,
                ..EventQuery::default()
            };
            let page = self.reader.query(query).await?;
            let Some(last) = page.events.last() else { return Ok((found, true)) };
            before = Some(last.id);
            for event in page.events {
                if !wanted(&event) {
                    return Ok((found, true));
                }
                if catalogue.governing(&event.name).is_some_and(|ruling| ruling.name == of.name) {
                    if found.len() == limit {
                        return Ok((found, false));
                    }
                    found.push(event);
                }
            }
        }
        Ok((found, false))
    }
}

fn failed(error: actix_rt::task::JoinError) -> ApiError {
    log::error!(error:%; "a decision on an event type has failed");
    ApiError::new(ErrorCode::Internal, "a decision on the event type has failed")
}
