//! The newest event of the log is remembered in Redis, so that a store which was set back while no node ran is known as
//! such.
//!
//! What Redis says is believed only if a node on the store has sealed it. An empty Redis knows of nothing.

use std::time::Duration;

use redis::{Value, cmd};

use super::BusParts;
use super::standing::Standing;
use crate::actors::persistence::messages::RecallNewest;
use crate::bus::{BusError, Link};
use crate::domain::log::{LogId, MARGIN, Seen};
use crate::protocol::newest::{newest_key, read_newest, write_newest};
use crate::runtime::stop::Stop;

/// The name of the part.
pub const PART: &str = "newest event";
/// How often it is written.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether many events have come since.
const LOOK: Duration = Duration::from_millis(50);
/// Nothing is written over a newer one. `ARGV[2]` is what no node has written, if there is something of the kind.
const SCRIPT: &str = "local known = redis.call('GET', KEYS[1]) \
    if not known or known == ARGV[2] or known < ARGV[1] then redis.call('SET', KEYS[1], ARGV[1]) end return 1";

/// See the module.
pub struct Newest {
    parts: BusParts,
    standing: Standing,
    stop: Stop,
}

impl Newest {
    pub fn new(parts: &BusParts, (standing, stop): (Standing, Stop)) -> Self {
        Self { parts: parts.clone(), standing, stop }
    }

    /// Asks what is remembered, and then has it remembered, until it is to stop or Redis fails.
    pub async fn run(&self) -> Result<(), BusError> {
        let ended = self.remember().await;
        if ended.is_err() {
            self.parts.remembered.fail();
        }
        ended
    }

    async fn remember(&self) -> Result<(), BusError> {
        let Some(mut log) = self.stop.or(self.log()).await else { return Ok(()) };
        let Some(link) = self.stop.or(self.parts.redis.connect()).await else { return Ok(()) };
        let mut link = link?;
        loop {
            let Some(unknown) = self.stop.or(self.recall(&mut link, log)).await else { return Ok(()) };
            let unknown = unknown?;
            while self.parts.position.log_id() == Some(log) {
                let seen = self.parts.position.seen().filter(|seen| seen.log == log);
                self.write(&mut link, seen, &unknown).await?;
                self.standing.up(PART);
                if self.stop.or(self.wait(seen)).await.is_none() {
                    let seen = self.parts.position.seen().filter(|seen| seen.log == log);
                    return self.write(&mut link, seen, &unknown).await;
                }
            }
            log = self.log().await;
        }
    }

    /// The identity of the log, once the store was opened.
    async fn log(&self) -> LogId {
        loop {
            match self.parts.position.log_id().filter(|_| !self.parts.position.key().is_empty()) {
                Some(log) => return log,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    /// Tells persistence what is remembered. Returns what no node has written, if there is something of the kind.
    async fn recall(&self, link: &mut Link, log: LogId) -> Result<String, BusError> {
        let text = match link.ask(cmd("GET").arg(newest_key(log)), Duration::ZERO).await? {
            Value::Nil => None,
            Value::BulkString(text) => Some(String::from_utf8_lossy(&text).into_owned()),
            _ => return Err(BusError::unexpected("GET")),
        };
        let seen = text.as_deref().and_then(|text| read_newest(text, log, &self.parts.position.key()));
        self.parts.remembered.tell(seen);
        if let Some(seen) = seen {
            while self.parts.persistence.tell(RecallNewest(seen)).is_err() {
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(text.filter(|_| seen.is_none()).unwrap_or_default())
    }

    async fn write(&self, link: &mut Link, seen: Option<Seen>, unknown: &str) -> Result<(), BusError> {
        let text = seen.and_then(|seen| Some((seen.log, write_newest(&seen, &self.parts.position.key())?)));
        let Some((log, text)) = text else { return Ok(()) };
        let mut script = cmd("EVAL");
        script.arg(SCRIPT).arg(1).arg(newest_key(log)).arg(text).arg(unknown);
        link.ask(&script, Duration::ZERO).await.map(drop)
    }

    /// Until it is to be written again: sooner if so many events have come that a log which is set back would not go on
    /// above all of them.
    async fn wait(&self, written: Option<Seen>) {
        let written = written.map_or(0, |seen| seen.last);
        let is_far = async {
            while self.parts.position.last() - written < MARGIN / 2 {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(INTERVAL, is_far).await;
    }
}
