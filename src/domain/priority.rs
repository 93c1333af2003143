//! Which of the waiting deliveries of a service goes next.
//!
//! Stride scheduling: each lane has a position that moves by `1 / weight` when it is served, and the lane furthest
//! behind goes next. A lane that was idle starts where the others are; it gets no credit for not having asked.

use std::time::Duration;

use super::event::Priority;

/// Deliveries of one urgency, served in the order of their age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    High,
    Normal,
    Low,
    /// Stored events that are sent once more; slower than live ones when both compete.
    Replay,
}

impl Lane {
    /// How many lanes there are.
    pub const COUNT: usize = 4;
    /// All lanes, most urgent first.
    pub const ALL: [Self; Self::COUNT] = [Self::High, Self::Normal, Self::Low, Self::Replay];
    /// Those of live events.
    pub const LIVE: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The name on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
            Self::Replay => "replay",
        }
    }

    /// Reads the number in the store; unknown numbers count as normal.
    pub(crate) fn from_store(number: i16) -> Self {
        Self::ALL.into_iter().find(|lane| *lane as i16 == number).unwrap_or(Self::Normal)
    }

    /// Its place in [`Lane::ALL`], and its number in the store.
    pub fn index(self) -> usize {
        self as usize
    }
}

impl From<Priority> for Lane {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::High => Self::High,
            Priority::Normal => Self::Normal,
            Priority::Low => Self::Low,
        }
    }
}

/// How lanes share one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanePolicy {
    /// Shares of high, normal and low.
    pub weights: [u32; 3],
    /// While live lanes have work, replay gets one turn in so many.
    pub replay_every: u32,
    /// A live lane whose oldest waits longer than this is overdue.
    pub age_limit: Duration,
    /// While some lane is overdue, one turn in so many goes to the one that waits longest.
    pub aged_every: u32,
}

impl Default for LanePolicy {
    fn default() -> Self {
        Self { weights: [16, 4, 1], replay_every: 64, age_limit: Duration::from_secs(30), aged_every: 4 }
    }
}

/// How long the oldest of each lane has waited, in the order of [`Lane::ALL`]; none where nothing waits.
pub type OldestWaits = [Option<Duration>; Lane::COUNT];

/// Whose turn it is. PR-1: with work in all lanes, each is served within a bounded number of turns.
#[derive(Debug, Clone)]
pub struct PriorityScheduler {
    policy: LanePolicy,
    positions: [u64; 3],
    /// Where the lane served last stood: no lane with work is behind it.
    front: u64,
    /// Turns since replay was served, or had nothing to wait for.
    replay_waits: u32,
    /// Turns since an overdue lane was preferred, or none was overdue.
    aged_waits: u32,
}

/// What a lane of weight 1 moves by.
const STRIDE: u64 = 1 << 32;

impl PriorityScheduler {
    pub fn new(policy: LanePolicy) -> Self {
        Self { policy, positions: [0; 3], front: 0, replay_waits: 0, aged_waits: 0 }
    }

    /// The lane to serve next, if any has work. Asking costs nothing: only [`Self::served`] takes the turn.
    pub fn choose(&self, oldest: &OldestWaits) -> Option<Lane> {
        let live = || Lane::LIVE.into_iter().filter(|lane| oldest[lane.index()].is_some());
        let replay = oldest[Lane::Replay.index()].map(|_| Lane::Replay);
        if live().next().is_none() || self.replay_waits + 1 >= self.policy.replay_every {
            return replay.or_else(|| self.furthest_behind(live()));
        }
        let overdue = self.overdue(oldest).filter(|_| self.aged_waits + 1 >= self.policy.aged_every);
        overdue.or_else(|| self.furthest_behind(live()))
    }

    /// The turn was taken by `lane`, as chosen for the same `oldest`.
    pub fn served(&mut self, lane: Lane, oldest: &OldestWaits) {
        let waits_on = |waiting: bool, waits: u32| if waiting { waits.saturating_add(1) } else { 0 };
        let preferred = self.overdue(oldest);
        self.replay_waits = waits_on(lane != Lane::Replay && oldest[Lane::Replay.index()].is_some(), self.replay_waits);
        self.aged_waits = waits_on(preferred.is_some_and(|aged| aged != lane), self.aged_waits);
        // A turn out of turn costs nothing: a lane that was overdue for long would starve afterwards.
        let in_turn = self.furthest_behind(Lane::LIVE.into_iter().filter(|live| oldest[live.index()].is_some()));
        if let Some(weight) = self.policy.weights.get(lane.index()).filter(|_| in_turn == Some(lane)) {
            self.front = self.front.max(self.positions[lane.index()]);
            self.positions[lane.index()] = self.front + STRIDE / u64::from(*weight).max(1);
        }
    }

    fn furthest_behind(&self, lanes: impl Iterator<Item = Lane>) -> Option<Lane> {
        lanes.min_by_key(|lane| self.positions[lane.index()].max(self.front))
    }

    fn overdue(&self, oldest: &OldestWaits) -> Option<Lane> {
        let wait = |lane: &Lane| oldest[lane.index()].filter(|wait| *wait > self.policy.age_limit);
        Lane::LIVE.into_iter().rev().filter(|lane| wait(lane).is_some()).max_by_key(wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRESH: OldestWaits = [Some(Duration::ZERO); Lane::COUNT];

    fn serve(scheduler: &mut PriorityScheduler, oldest: &OldestWaits) -> Option<Lane> {
        let lane = scheduler.choose(oldest)?;
        scheduler.served(lane, oldest);
        Some(lane)
    }

    fn count(scheduler: &mut PriorityScheduler, oldest: &OldestWaits, turns: usize) -> [usize; Lane::COUNT] {
        let mut counts = [0; Lane::COUNT];
        for _ in 0..turns {
            if let Some(lane) = serve(scheduler, oldest) {
                counts[lane.index()] += 1;
            }
        }
        counts
    }

    #[test]
    fn shares_are_the_weights() {
        let mut scheduler = PriorityScheduler::new(LanePolicy::default());
        assert_eq!(count(&mut scheduler, &FRESH, 64 * 100), [4_800, 1_200, 300, 100]);
    }

    #[test]
    fn replay_has_what_others_leave() {
        let mut scheduler = PriorityScheduler::new(LanePolicy::default());
        assert_eq!(count(&mut scheduler, &[None, None, None, Some(Duration::ZERO)], 10), [0, 0, 0, 10]);
        assert_eq!(count(&mut scheduler, &[None, None, Some(Duration::ZERO), Some(Duration::ZERO)], 640)[3], 10);
        assert_eq!(scheduler.choose(&[None; Lane::COUNT]), None);
    }

    #[test]
    fn the_overdue_get_one_turn_in_four() {
        let mut scheduler = PriorityScheduler::new(LanePolicy::default());
        let oldest = [Some(Duration::ZERO), Some(Duration::ZERO), Some(Duration::from_secs(31)), None];
        let [high, normal, low, _] = count(&mut scheduler, &oldest, 1_000);
        assert!((250..=320).contains(&low), "{low} low");
        assert!((3 * normal..=5 * normal).contains(&high), "{high} high, {normal} normal");
    }

    #[test]
    fn an_idle_lane_saves_no_turns() {
        let mut scheduler = PriorityScheduler::new(LanePolicy::default());
        count(&mut scheduler, &[None, None, Some(Duration::ZERO), None], 1_000);
        let [high, _, low, _] = count(&mut scheduler, &[FRESH[0], None, FRESH[2], None], 170);
        assert!((155..=165).contains(&high), "{high} high, {low} low");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// PR-1 from any state that any history has led to. Nothing is chosen that has no work.
        #[test]
        fn every_lane_is_served_within_bounds(
            history in prop::collection::vec(prop::array::uniform4(prop::option::of(0..60u64)), 0..200),
            standing in prop::array::uniform4(0..60u64),
        ) {
            let mut scheduler = PriorityScheduler::new(LanePolicy::default());
            for waits in history {
                let oldest = waits.map(|wait| wait.map(Duration::from_secs));
                match serve(&mut scheduler, &oldest) {
                    Some(lane) => prop_assert!(oldest[lane.index()].is_some()),
                    None => prop_assert_eq!(oldest, [None; Lane::COUNT]),
                }
            }
            let oldest = standing.map(|wait| Some(Duration::from_secs(wait)));
            let mut waited = [0u32; Lane::COUNT];
            for _ in 0..500 {
                let Some(served) = serve(&mut scheduler, &oldest) else { panic!("work and no turn") };
                for lane in Lane::ALL {
                    waited[lane.index()] = if lane == served { 0 } else { waited[lane.index()] + 1 };
                }
                prop_assert!(waited[3] < 64, "replay");
                prop_assert!(waited.iter().all(|turns| *turns < 128), "{:?}", waited);
            }
        }
    }
}
