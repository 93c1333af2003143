//! What the mirror of entities asks of Redis.
//!
//! Scripts are sent whole each time: Redis knows them by their text, and one that it has forgotten needs no second
//! request.

use std::time::Duration;

use redis::{Pipeline, Value, cmd};

use super::{BusError, BusReason, Link};
use crate::domain::entity::EntityId;
use crate::domain::event::EventId;
use crate::domain::log::LogId;
use crate::domain::mirror::{HEAD_BYTES, Held, Stand, Todo, version};
use crate::protocol::mirror::{PREFIX, STAND, mirror_key, read_mirror_key};

/// From now on `ARGV[1]` is the writer. Returns what stands there.
const TAKE_OVER: &str = "redis.call('HSET', KEYS[1], 'writer', ARGV[1]) \
    return redis.call('HMGET', KEYS[1], 'log', 'position', 'todo')";

/// Writes entities and what stands beside them, if the writer is still the one that has taken over, and the position is
/// the one that it goes on from. `ARGV`: writer, position before, log, position after, what is left to do, whether newer
/// versions are replaced; then the version and the text of each key, without a text if it is to be removed. Returns how
/// many keys are in use for something else, -1 if nothing stands there, -2 if it does not continue what stands there.
///
/// Versions have no leading zeros: of two, the longer one is newer, or the greater text.
const WRITE: &str = r#"
local stand = redis.call('HMGET', KEYS[1], 'writer', 'position')
if not stand[1] then return -1 end
if stand[1] ~= ARGV[1] or (stand[2] or '') ~= ARGV[2] then return -2 end
local blocked = 0
for i = 2, #KEYS do
  local version, text = ARGV[2 * i + 3], ARGV[2 * i + 4]
  local head = redis.pcall('GETRANGE', KEYS[i], 0, 47)
  if type(head) == 'table' then
    if not string.find(head.err, 'WRONGTYPE') then return head end
    blocked = blocked + 1
  else
    local held = string.match(head, '^{"version":(%d+),"value":')
    local newer = held and (#held > #version or (#held == #version and held > version))
    if ARGV[6] == '1' or not newer then
      if text ~= '' then redis.call('SET', KEYS[i], text)
      elseif head ~= '' then redis.call('DEL', KEYS[i]) end
    end
  end
end
redis.call('HSET', KEYS[1], 'log', ARGV[3], 'position', ARGV[4], 'todo', ARGV[5])
return blocked
"#;

/// What is written at once.
#[derive(Debug)]
pub struct MirrorBatch<'a> {
    pub writer: &'a str,
    /// The position that stands there.
    pub before: Option<EventId>,
    /// What stands there from then on.
    pub stand: &'a Stand,
    /// Whether newer versions are replaced too: those of another log, or made by hand.
    pub replaces: bool,
    pub entries: Vec<MirrorEntry>,
}

/// An entity, with its text if it is there.
#[derive(Debug)]
pub struct MirrorEntry {
    pub id: EntityId,
    pub version: EventId,
    pub text: Option<String>,
}

/// What has become of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is written, but for so many keys that are in use for something else.
    Done { blocked: usize },
    /// Nothing of it is written: the mirror is gone.
    Gone,
    /// Nothing of it is written: another writer has taken over.
    Displaced,
}

/// Makes `writer` the one that may write. Returns what stands there.
pub async fn take_over(link: &mut Link, writer: &str) -> Result<Stand, BusError> {
    let answer = link.ask(cmd("EVAL").arg(TAKE_OVER).arg(1).arg(STAND).arg(writer), Duration::ZERO).await?;
    let Value::Array(fields) = answer else { return Err(BusError::unexpected("EVAL")) };
    let mut fields = fields.into_iter().map(|field| text(field).unwrap_or_default());
    let mut next = || fields.next().unwrap_or_default();
    Ok(Stand { log: LogId::parse(&next()), position: next().parse().ok(), todo: Todo::parse(&next()) })
}

/// Writes a batch, all of it or nothing.
pub async fn write(link: &mut Link, batch: &MirrorBatch<'_>) -> Result<Written, BusError> {
    let MirrorBatch { writer, before, stand, replaces, entries } = batch;
    let number = |id: &Option<EventId>| id.map_or_else(String::new, |id| id.to_string());
    let mut script = cmd("EVAL");
    script.arg(WRITE).arg(entries.len() + 1).arg(STAND);
    for MirrorEntry { id, .. } in entries {
        script.arg(mirror_key(id));
    }
    let log = stand.log.map_or_else(String::new, |log| log.to_string());
    script.arg(writer).arg(number(before)).arg(log).arg(number(&stand.position)).arg(stand.todo.to_string());
    script.arg(if *replaces { "1" } else { "" });
    for MirrorEntry { version, text, .. } in entries {
        script.arg(version.to_string()).arg(text.as_deref().unwrap_or_default());
    }
    match link.ask(&script, Duration::ZERO).await? {
        Value::Int(-1) => Ok(Written::Gone),
        Value::Int(-2) => Ok(Written::Displaced),
        Value::Int(blocked) => Ok(Written::Done { blocked: usize::try_from(blocked).unwrap_or(0) }),
        _ => Err(BusError::unexpected("EVAL")),
    }
}

/// What Redis has of these entities, in their order.
pub async fn held(link: &mut Link, ids: &[EntityId]) -> Result<Vec<Held>, BusError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut commands = Pipeline::new();
    for id in ids {
        commands.cmd("GETRANGE").arg(mirror_key(id)).arg(0).arg(HEAD_BYTES - 1);
    }
    let read = |answer| match answer {
        Ok(Value::BulkString(head)) if head.is_empty() => Ok(Held::Nothing),
        Ok(Value::BulkString(head)) => Ok(version(&head).map_or(Held::Strange, Held::Version)),
        Ok(_) => Err(BusError::unexpected("GETRANGE")),
        Err(BusError { reason: BusReason::WrongType, .. }) => Ok(Held::Foreign),
        Err(error) => Err(error),
    };
    link.ask_all(&commands).await?.into_iter().map(read).collect()
}

/// Some of the keys that may be those of entities, and where to go on; zero at the end. `count` is about how many keys of
/// Redis are looked at.
pub async fn scan(link: &mut Link, cursor: u64, count: usize) -> Result<(u64, Vec<EntityId>), BusError> {
    let mut command = cmd("SCAN");
    command.arg(cursor).arg("MATCH").arg(format!("{PREFIX}*")).arg("COUNT").arg(count);
    let answer = link.ask(&command, Duration::ZERO).await?;
    let read = || {
        let Value::Array(parts) = answer else { return None };
        let mut parts = parts.into_iter();
        let next = text(parts.next()?)?.parse().ok()?;
        let Value::Array(keys) = parts.next()? else { return None };
        let ids = keys.into_iter().filter_map(|key| match key {
            Value::BulkString(key) => read_mirror_key(&key),
            _ => None,
        });
        Some((next, ids.collect()))
    };
    read().ok_or_else(|| BusError::unexpected("SCAN"))
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    }
}
