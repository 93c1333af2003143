//! A stream of Redis that is read by one consumer of a group, and the stream of what was refused.

use std::time::Duration;

use redis::{Cmd, Pipeline, Value, cmd};

use super::{BusError, BusReason, Link};
use crate::config::IngestConfig;
use crate::domain::ingest::{Entry, EntryId};

/// The consumer group.
const GROUP: &str = "event-handler";

/// An entry that cannot be an event.
#[derive(Debug, Clone)]
pub struct Refused {
    pub entry: Entry,
    pub code: &'static str,
    pub message: String,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Stream {
    config: IngestConfig,
    dead: String,
    consumer: String,
}

impl Stream {
    /// The stream of the configuration, read as `consumer`.
    pub fn new(config: IngestConfig, consumer: &str) -> Self {
        Self { dead: format!("{}:dead", config.stream), config, consumer: consumer.to_owned() }
    }

    pub fn name(&self) -> &str {
        &self.config.stream
    }

    /// The last id that the stream has given; zero if there is no stream.
    pub async fn last(&self, link: &mut Link) -> Result<EntryId, BusError> {
        let answer = link.ask(cmd("XINFO").arg("STREAM").arg(self.name()), Duration::ZERO).await;
        let answer = match answer {
            Err(error) if error.message.contains("no such key") => return Ok(EntryId::ZERO),
            answer => answer?,
        };
        let info = pairs(answer).ok_or_else(|| BusError::unexpected("XINFO"))?;
        let last = info.into_iter().find(|(name, _)| name == b"last-generated-id");
        last.and_then(|(_, id)| entry_id(&id)).ok_or_else(|| BusError::unexpected("XINFO"))
    }

    /// Has the group go on after the entry `at`. Makes the group, and the stream, if they are not there.
    pub async fn place_group(&self, link: &mut Link, at: EntryId) -> Result<(), BusError> {
        let group = |word: &str| {
            let mut command = cmd("XGROUP");
            command.arg(word).arg(self.name()).arg(GROUP).arg(at.to_string());
            command
        };
        // Setting takes no memory, so that it also works when that is full.
        match link.ask(&group("SETID"), Duration::ZERO).await {
            Err(error) if is_absent(&error) => {
                link.ask(group("CREATE").arg("MKSTREAM"), Duration::ZERO).await.map(drop)
            }
            answer => answer.map(drop),
        }
    }

    /// At most `count` entries that the group has given to nobody. Waits for the first one for at most `wait`.
    pub async fn read_new(&self, link: &mut Link, count: usize, wait: Duration) -> Result<Vec<Entry>, BusError> {
        let mut command = self.read(count);
        command.arg("BLOCK").arg(wait.as_millis().max(1) as u64).arg("STREAMS").arg(self.name()).arg(">");
        self.entries_of(link.ask(&command, wait).await?)
    }

    /// At most `count` entries after `after` that this consumer was given and has not acknowledged.
    pub async fn read_pending(&self, link: &mut Link, after: EntryId, count: usize) -> Result<Vec<Entry>, BusError> {
        let mut command = self.read(count);
        command.arg("STREAMS").arg(self.name()).arg(after.to_string());
        self.entries_of(link.ask(&command, Duration::ZERO).await?)
    }

    fn read(&self, count: usize) -> Cmd {
        let mut command = cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg(&self.consumer).arg("COUNT").arg(count);
        command
    }

    /// Takes entries over that somebody was given and has not acknowledged for long; goes through at most `count` of
    /// those from `from` on. Returns where to go on; zero at the end.
    pub async fn claim(&self, link: &mut Link, from: EntryId, count: usize) -> Result<(EntryId, Vec<Entry>), BusError> {
        let idle = self.config.claim_after.get().as_millis() as u64;
        let mut command = cmd("XAUTOCLAIM");
        command.arg(self.name()).arg(GROUP).arg(&self.consumer).arg(idle).arg(from.to_string());
        let answer = link.ask(command.arg("COUNT").arg(count), Duration::ZERO).await?;
        let read = || {
            let mut parts = array(answer)?.into_iter();
            let next = entry_id(&bytes(parts.next()?)?)?;
            Some((next, entries(parts.next()?)?))
        };
        read().ok_or_else(|| BusError::unexpected("XAUTOCLAIM"))
    }

    /// These are done with.
    pub async fn acknowledge(&self, link: &mut Link, done: &[EntryId]) -> Result<(), BusError> {
        if done.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = done.iter().map(EntryId::to_string).collect();
        let mut commands = Pipeline::new();
        // What was deleted and not acknowledged is found without fields, and acknowledged then.
        if self.config.trim {
            commands.cmd("XDEL").arg(self.name()).arg(&ids);
        }
        commands.cmd("XACK").arg(self.name()).arg(GROUP).arg(&ids);
        link.ask_all(&commands).await?.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// Writes what was refused to the stream of the dead; for each whether it is there.
    pub async fn bury(&self, link: &mut Link, refused: &[Refused]) -> Result<Vec<Result<(), BusError>>, BusError> {
        let mut commands = Pipeline::new();
        for Refused { entry, code, message } in refused {
            let command = commands.cmd("XADD").arg(&self.dead).arg("MAXLEN").arg(self.config.dead_max).arg("*");
            for (name, value) in &entry.fields {
                command.arg(name).arg(value);
            }
            command.arg("entry").arg(entry.id.to_string()).arg("code").arg(code).arg("message").arg(message);
        }
        Ok(link.ask_all(&commands).await?.into_iter().map(|answer| answer.map(drop)).collect())
    }

    /// The entries in an answer to XREADGROUP; none if the time was over.
    fn entries_of(&self, answer: Value) -> Result<Vec<Entry>, BusError> {
        if answer == Value::Nil {
            return Ok(Vec::new());
        }
        let read = || {
            let stream = array(answer)?.into_iter().next()?;
            entries(array(stream)?.into_iter().nth(1)?)
        };
        read().ok_or_else(|| BusError::unexpected("XREADGROUP"))
    }
}

fn is_absent(error: &BusError) -> bool {
    error.reason == BusReason::NoGroup || error.message.contains("requires the key to exist")
}

fn array(value: Value) -> Option<Vec<Value>> {
    if let Value::Array(values) = value { Some(values) } else { None }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

fn entry_id(text: &[u8]) -> Option<EntryId> {
    EntryId::parse(std::str::from_utf8(text).ok()?)
}

/// Names and those of the values that are texts; the others are left out.
fn pairs(value: Value) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut values = array(value)?.into_iter();
    let mut pairs = Vec::with_capacity(values.len() / 2);
    while let Some((name, value)) = values.next().zip(values.next()) {
        pairs.extend(bytes(name).zip(bytes(value)));
    }
    Some(pairs)
}

/// Entries; one that was deleted has no fields, or is left out.
fn entries(value: Value) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in array(value)? {
        if entry == Value::Nil {
            continue;
        }
        let mut parts = array(entry)?.into_iter();
        let id = entry_id(&bytes(parts.next()?)?)?;
        let fields = match parts.next()? {
            Value::Nil => Vec::new(),
            fields => pairs(fields)?,
        };
        entries.push(Entry { id, fields });
    }
    Some(entries)
}
