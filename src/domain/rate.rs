//! Token bucket: how often something may be done.
//!
//! Counts in whole parts of a token, as many as its period has microseconds, so nothing is ever rounded: over any
//! span `t` at most `burst + t · tokens / per` are given out, over years as over milliseconds (RL-1).

use std::time::Duration;

use super::event::Timestamp;

/// `tokens` in each period `per`, and up to `burst` at once. Zeros count as the smallest possible value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub tokens: u32,
    pub per: Duration,
    pub burst: u32,
}

impl RateLimit {
    /// `tokens` in each second.
    pub const fn per_second(tokens: u32, burst: u32) -> Self {
        Self { tokens, per: Duration::from_secs(1), burst }
    }
}

/// A bucket of tokens that fills steadily; it starts full.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// Parts gained in a microsecond.
    gain: u128,
    /// Parts of one token.
    token: u128,
    /// Parts that fit.
    room: u128,
    /// Parts in the bucket as of `filled_at`. Invariant: `level <= room`.
    level: u128,
    filled_at: Timestamp,
}

impl TokenBucket {
    pub fn new(limit: RateLimit, now: Timestamp) -> Self {
        let token = limit.per.as_micros().max(1);
        let room = token * u128::from(limit.burst.max(1));
        Self { gain: limit.tokens.max(1).into(), token, room, level: room, filled_at: now }
    }

    /// Whether a token is there at `now`; if not, the first instant at which one will be.
    pub fn check(&self, now: Timestamp) -> Result<(), Timestamp> {
        match self.token.checked_sub(self.level_at(now)) {
            None | Some(0) => Ok(()),
            Some(missing) => {
                let wait = u64::try_from(missing.div_ceil(self.gain)).unwrap_or(u64::MAX);
                Err(now.max(self.filled_at).plus(Duration::from_micros(wait)))
            }
        }
    }

    /// Takes a token, or says when to ask again.
    pub fn try_take(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        self.check(now)?;
        self.level = self.level_at(now) - self.token;
        self.filled_at = self.filled_at.max(now);
        Ok(())
    }

    /// Takes `count` tokens at once, or says when to ask again. More than fit into the bucket need a full one, and are
    /// paid for by what it gains later: until then nothing more is given out.
    pub fn try_take_many(&mut self, count: u32, now: Timestamp) -> Result<(), Timestamp> {
        let cost = self.token * u128::from(count);
        let level = self.level_at(now);
        let wait = |parts: u128| Duration::from_micros(u64::try_from(parts.div_ceil(self.gain)).unwrap_or(u64::MAX));
        let from = now.max(self.filled_at);
        match cost.min(self.room).checked_sub(level) {
            None | Some(0) => {
                // Empty until the debt is paid.
                self.filled_at = from.plus(wait(cost.saturating_sub(level)));
                self.level = level.saturating_sub(cost);
                Ok(())
            }
            Some(missing) => Err(from.plus(wait(missing))),
        }
    }

    /// Whether it is full at `now`, like a new one.
    pub fn is_full(&self, now: Timestamp) -> bool {
        self.level_at(now) == self.room
    }

    /// Adds `percent` of a token, as far as there is room.
    pub(super) fn deposit(&mut self, percent: u32) {
        self.level = self.room.min(self.level + self.token * u128::from(percent) / 100);
    }

    /// Fills the bucket up to `now`. A clock that was set back changes nothing.
    fn level_at(&self, now: Timestamp) -> u128 {
        self.room.min(self.level + now.since(self.filled_at).as_micros() * self.gain)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit() -> impl Strategy<Value = RateLimit> {
        (1..2_000u32, 1..100_000_000u64, 1..50u32).prop_map(|(tokens, per, burst)| RateLimit {
            tokens,
            per: Duration::from_micros(per),
            burst,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// RL-1 for every span between two takes, whenever they are asked for.
        #[test]
        fn no_span_has_more_than_the_burst_and_the_rate(
            limit in limit(),
            gaps in prop::collection::vec(prop_oneof![Just(0), 1..1_000i64, 1..10_000_000i64], 1..80),
        ) {
            let mut now = Timestamp(0);
            let mut bucket = TokenBucket::new(limit, now);
            let mut taken: Vec<i64> = Vec::new();
            for gap in gaps {
                now.0 += gap;
                while taken.len() < 400 && bucket.try_take(now).is_ok() {
                    taken.push(now.0);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let span = u128::try_from(to - from).unwrap_or(0);
                    let count = (last - first + 1) as u128;
                    let parts = u128::from(limit.burst) * limit.per.as_micros() + span * u128::from(limit.tokens);
                    prop_assert!(count * limit.per.as_micros() <= parts);
                }
            }
        }

        /// Whoever comes when told to gets a token, and no earlier.
        #[test]
        fn the_promised_instant_is_the_first(limit in limit(), takes in 1..200usize) {
            let mut now = Timestamp(0);
            let mut bucket = TokenBucket::new(limit, now);
            for _ in 0..takes {
                if let Err(next) = bucket.try_take(now) {
                    prop_assert!(next > now);
                    prop_assert!(bucket.check(Timestamp(next.0 - 1)).is_err());
                    now = next;
                    prop_assert_eq!(bucket.try_take(now), Ok(()));
                }
            }
        }
    }

    #[test]
    fn a_batch_beyond_the_burst_is_paid_for_later() {
        let mut bucket = TokenBucket::new(RateLimit::per_second(10, 20), Timestamp(0));
        assert_eq!(bucket.try_take_many(50, Timestamp(0)), Ok(()));
        // A debt of 30 takes three seconds, and the next token a tenth.
        assert_eq!(bucket.try_take(Timestamp(3_000_000)), Err(Timestamp(3_100_000)));
        assert_eq!(bucket.try_take_many(30, Timestamp(3_100_000)), Err(Timestamp(5_000_000)));
        assert_eq!(bucket.try_take_many(30, Timestamp(5_000_000)), Ok(()));
        assert!(!bucket.is_full(Timestamp(7_999_999)) && bucket.is_full(Timestamp(8_000_000)));
    }

    #[test]
    fn seven_in_three_seconds_do_not_drift() {
        let mut bucket = TokenBucket::new(RateLimit { tokens: 7, per: Duration::from_secs(3), burst: 1 }, Timestamp(0));
        let (mut now, mut taken) = (Timestamp(0), 0);
        while now.0 <= 3_000_000_000 {
            match bucket.try_take(now) {
                Ok(()) => taken += 1,
                Err(next) => now = next,
            }
        }
        // A take comes at most a microsecond late, and the bucket of one token then overflows by that.
        assert!((6_998..=7_001).contains(&taken), "{taken}");
    }

    #[test]
    fn a_clock_set_back_gives_nothing_and_takes_nothing() {
        let mut bucket = TokenBucket::new(RateLimit::per_second(1, 2), Timestamp(5_000_000));
        assert_eq!(bucket.try_take(Timestamp(0)), Ok(()));
        assert_eq!(bucket.try_take(Timestamp(5_000_000)), Ok(()));
        assert_eq!(bucket.try_take(Timestamp(1_000_000)), Err(Timestamp(6_000_000)));
        assert_eq!(bucket.try_take(Timestamp(6_000_000)), Ok(()));
    }
}
