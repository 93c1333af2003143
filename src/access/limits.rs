//! Rate limits and connection limits: token buckets and counts by rate key, in tables of bounded size.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::LimitsConfig;
use crate::domain::access::Caller;
use crate::domain::event::Timestamp;
use crate::domain::network::client_block;
use crate::domain::rate::{RateLimit, TokenBucket};
use crate::protocol::error::{ApiError, ErrorCode};

/// A table has this many parts, each with its own lock.
const PARTS: usize = 16;
/// The most rate keys that one part remembers. Beyond it, idle keys are removed; if none is idle, further keys share
/// one bucket.
const MAX_KEYS: usize = 4096;
/// The shortest time between two searches of a full part for idle keys, in microseconds.
const SWEEP_INTERVAL: i64 = 1_000_000;

/// The limits of the edge. `None` means unlimited.
pub struct Limits {
    hasher: RandomState,
    publish: Option<RateTable>,
    connect: Option<RateTable>,
    /// Each WebSocket connection has a bucket of its own with this limit.
    pub frames: Option<RateLimit>,
    connections: Option<Arc<PeerCounts>>,
}

/// What requests are counted under: their principal, or the address from which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateKey(u64);

impl Limits {
    pub fn new(config: &LimitsConfig) -> Self {
        let limit = |rate, burst| (rate > 0).then(|| RateLimit::per_second(rate, if burst > 0 { burst } else { rate }));
        Self {
            hasher: RandomState::new(),
            publish: limit(config.publish_rate, config.publish_burst).map(RateTable::new),
            connect: limit(config.connect_rate, config.connect_burst).map(RateTable::new),
            frames: limit(config.frame_rate, config.frame_burst),
            connections: (config.connections_per_peer > 0)
                .then(|| Arc::new(PeerCounts { max: config.connections_per_peer, counts: Mutex::default() })),
        }
    }

    /// Whether publishes are limited. If not, their rate key need not be computed.
    pub fn limits_publishes(&self) -> bool {
        self.publish.is_some()
    }

    /// The rate key of a request: that of its principal, or that of its address if it came without a token.
    pub fn rate_key(&self, caller: &Caller, peer: Option<IpAddr>) -> RateKey {
        RateKey(match caller {
            Caller::Known(principal) => self.hasher.hash_one(&principal.identity),
            Caller::Anybody => self.hasher.hash_one(peer.map(client_block)),
        })
    }

    /// Counts `events` that are published at once under `key`.
    pub fn publish(&self, key: RateKey, events: usize, now: Timestamp) -> Result<(), ApiError> {
        count(self.publish.as_ref(), key, events, now, "publishes")
    }

    /// Counts a connection that is opened under `key`.
    pub fn connect(&self, key: RateKey, now: Timestamp) -> Result<(), ApiError> {
        count(self.connect.as_ref(), key, 1, now, "connections opened")
    }

    /// Admits a connection from this address. It counts until the result is dropped.
    pub fn admit(&self, peer: Option<IpAddr>) -> Result<Option<PeerAdmission>, ApiError> {
        let (Some(connections), Some(peer)) = (&self.connections, peer) else { return Ok(None) };
        let peer = client_block(peer);
        let mut counts = lock(&connections.counts);
        let count = counts.entry(peer).or_default();
        if *count >= connections.max {
            let message = format!("there are {} connections from this address already", connections.max);
            return Err(ApiError::transient(ErrorCode::TooManyConnections, message));
        }
        *count += 1;
        drop(counts);
        Ok(Some(PeerAdmission { peer, counts: Arc::clone(connections) }))
    }
}

fn count(table: Option<&RateTable>, key: RateKey, count: usize, now: Timestamp, of_what: &str) -> Result<(), ApiError> {
    let Some(table) = table else { return Ok(()) };
    let taken = table.take(key, u32::try_from(count).unwrap_or(u32::MAX), now);
    taken.map_err(|next| rate_limited(of_what, next, now))
}

/// The refusal of a request that may be repeated at `next`.
pub fn rate_limited(of_what: &str, next: Timestamp, now: Timestamp) -> ApiError {
    ApiError::new(ErrorCode::RateLimited, format!("too many {of_what}; try again later")).retry_after(next.since(now))
}

/// Connections by address. An address without connections has no entry.
struct PeerCounts {
    max: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// An admitted connection, which counts for its address until this is dropped.
pub struct PeerAdmission {
    peer: IpAddr,
    counts: Arc<PeerCounts>,
}

impl Drop for PeerAdmission {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts.counts);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

impl std::fmt::Debug for PeerAdmission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerAdmission({})", self.peer)
    }
}

/// A token bucket for each rate key, up to the bound.
struct RateTable {
    limit: RateLimit,
    parts: [Mutex<Part>; PARTS],
}

#[derive(Default)]
struct Part {
    buckets: HashMap<RateKey, TokenBucket>,
    /// The bucket shared by the rate keys beyond the bound.
    others: Option<TokenBucket>,
    swept_at: Timestamp,
}

impl RateTable {
    fn new(limit: RateLimit) -> Self {
        Self { limit, parts: Default::default() }
    }

    fn take(&self, key: RateKey, count: u32, now: Timestamp) -> Result<(), Timestamp> {
        let mut part = lock(&self.parts[key.0 as usize % PARTS]);
        let part = &mut *part;
        let is_new = !part.buckets.contains_key(&key);
        if is_new && part.buckets.len() >= MAX_KEYS && now.0 - part.swept_at.0 >= SWEEP_INTERVAL {
            part.swept_at = now;
            part.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        let fresh = || TokenBucket::new(self.limit, now);
        let bucket = if is_new && part.buckets.len() >= MAX_KEYS {
            part.others.get_or_insert_with(fresh)
        } else {
            part.buckets.entry(key).or_insert_with(fresh)
        };
        bucket.try_take_many(count, now)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_bounded_and_forgets_the_idle() {
        let table = RateTable::new(RateLimit::per_second(1, 1));
        let key = |n: u64| RateKey(n * PARTS as u64);
        for n in 0..10 * MAX_KEYS as u64 {
            let _ = table.take(key(n), 1, Timestamp(1));
        }
        assert_eq!(lock(&table.parts[0]).buckets.len(), MAX_KEYS);
        assert!(table.take(key(0), 1, Timestamp(1)).is_err(), "who is known is still counted");
        let late = Timestamp(10_000_000);
        assert!(table.take(key(1 << 40), 1, late).is_ok());
        assert_eq!(lock(&table.parts[0]).buckets.len(), 1, "all were idle");
    }

    #[test]
    fn rate_keys_do_not_share_a_bucket_and_one_key_has_one() {
        let table = RateTable::new(RateLimit::per_second(1, 2));
        let now = Timestamp(1);
        assert!(table.take(RateKey(1), 2, now).is_ok());
        assert_eq!(table.take(RateKey(1), 1, now), Err(Timestamp(1_000_001)));
        assert!(table.take(RateKey(2), 2, now).is_ok());
    }

    #[test]
    fn connections_are_counted_while_they_live() {
        let limits = Limits {
            hasher: RandomState::new(),
            publish: None,
            connect: None,
            frames: None,
            connections: Some(Arc::new(PeerCounts { max: 1, counts: Mutex::default() })),
        };
        let peer = |text: &str| Some(text.parse().expect("an address"));
        let first = limits.admit(peer("2001:db8::1")).expect("room");
        assert!(limits.admit(peer("2001:db8::2")).is_err(), "the same /64");
        assert!(limits.admit(peer("1.2.3.4")).is_ok_and(|admission| admission.is_some()));
        drop(first);
        assert!(limits.admit(peer("2001:db8::2")).is_ok());
    }
}
