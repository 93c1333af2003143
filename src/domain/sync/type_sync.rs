//! One type of entities at one service: when it is checked, what is repaired, and what is told.

use std::time::Duration;

use super::check::{Check, CheckNeed, Difference, MAX_HELD, TheirDigest, Verdict};
use super::judge::{Asked, Compared};
use super::repair::{RepairNeed, Repaired, Repairs};
use super::standing::{Ended, Happened, Standing, SyncPolicy};
use super::{Counts, Demand, Now, SyncState};
use crate::domain::entity::Buckets;
use crate::domain::event::{EventId, Timestamp};

/// The first check comes within this time.
const SOON: Duration = Duration::from_secs(2);
/// After a check that has failed the next one comes as early; twice as late with each further failure.
const RETRY: Duration = Duration::from_secs(30);
/// How often it is looked whether a backlog is through.
const LOOK: Duration = Duration::from_millis(250);
/// A backlog that goes on no further for so long is not waited for: single events of it are tried again and again.
const STUCK: Duration = Duration::from_secs(60);
/// How often the progress of repairs is stored.
const PROGRESS: Duration = Duration::from_secs(1);

/// What is needed next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Store how it stands, with what is to be published.
    Save { standing: Standing, happened: Option<Happened> },
    /// The end of the log, the oldest event with an open delivery to the service, and how many entities there are.
    Backlog,
    /// The service, or the store, is to be asked for this. Never [`CheckNeed::Wait`] or [`CheckNeed::Done`].
    Check(CheckNeed),
    /// Repair this. `run` names these repairs.
    Repair { difference: Difference, run: u64 },
    /// Nothing until then.
    Wait(Timestamp),
}

/// Why a run was begun.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    check: bool,
    /// Repair, whatever is configured; and what is ahead.
    repair: Option<bool>,
    /// There was an outage.
    after_outage: bool,
}

#[derive(Debug)]
enum Task {
    Idle,
    /// Waits for what was open when it began.
    Backlog {
        through: Option<EventId>,
        oldest: EventId,
        moved_at: Timestamp,
        look_at: Timestamp,
    },
    Checking(Box<Check>),
    Repairing(Box<Repairs>),
}

/// See the module.
#[derive(Debug)]
pub struct TypeSync {
    policy: SyncPolicy,
    standing: Standing,
    happened: Option<Happened>,
    is_changed: bool,
    due: Timestamp,
    wanted: Wanted,
    /// The run under way.
    run: Wanted,
    task: Task,
    /// Repairs were made in this run, of a service of which so many buckets differed.
    repaired: Option<usize>,
    /// Whether the last comparison that was told has found no difference.
    is_told_synced: bool,
    failures: u32,
    /// A check that has ended, with what it has found.
    ended: Option<(Ended, Counts)>,
    stored_at: Timestamp,
    seed: u64,
    /// Most differences that are held.
    pub(super) max_held: usize,
}

impl TypeSync {
    /// Goes on from what is stored. `seed` is a random number.
    pub fn new(policy: SyncPolicy, stored: Option<Standing>, seed: u64, now: Now) -> Self {
        let standing = stored.unwrap_or_default();
        let mut made = Self {
            policy,
            happened: None,
            is_changed: false,
            due: now.steady,
            wanted: Wanted::default(),
            run: Wanted::default(),
            task: Task::Idle,
            repaired: None,
            is_told_synced: standing.state == SyncState::Synced,
            failures: 0,
            ended: None,
            stored_at: now.steady,
            standing,
            seed,
            max_held: MAX_HELD,
        };
        let soon = SOON.min(policy.every).mul_f64(made.fraction());
        made.set_due(soon, now);
        made
    }

    /// How it stands.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Whether a check or repairs are under way.
    pub fn is_busy(&self) -> bool {
        !matches!(self.task, Task::Idle)
    }

    /// A check that has ended since this was called last, with what it has found.
    pub fn take_ended(&mut self) -> Option<(Ended, Counts)> {
        self.ended.take()
    }

    /// Takes what somebody asks for. What runs comes to its end first, unless it is to end.
    pub fn demand(&mut self, demand: Demand) {
        match demand {
            Demand::Check => self.wanted.check = true,
            Demand::Repair { ahead } => {
                self.wanted.check = true;
                self.wanted.repair = Some(ahead || self.wanted.repair == Some(true));
            }
            Demand::Recovered => {
                self.wanted.check = true;
                self.wanted.after_outage = true;
            }
            Demand::Cancel => {
                self.wanted = Wanted::default();
                if self.is_busy() {
                    self.standing.error = Some("cancelled by an operator".to_owned());
                    if !matches!(self.task, Task::Repairing(_)) {
                        self.ended = Some((Ended::Cancelled, Counts::default()));
                    }
                    self.task = Task::Idle;
                    self.is_changed = true;
                }
            }
        }
    }

    /// What is needed at `now`. It stays so until it is answered.
    pub fn need(&mut self, now: Now) -> Need {
        loop {
            if self.is_changed {
                return Need::Save { standing: self.standing.clone(), happened: self.happened.clone() };
            }
            match &mut self.task {
                Task::Idle if self.wanted.check || self.due <= now.steady => self.begin(now),
                Task::Idle => return Need::Wait(self.due),
                Task::Backlog { look_at, .. } if *look_at > now.steady => return Need::Wait(*look_at),
                Task::Backlog { .. } => return Need::Backlog,
                Task::Checking(check) => match check.need(now.steady) {
                    CheckNeed::Wait(until) => return Need::Wait(until),
                    CheckNeed::Done => self.checked(now),
                    need => return Need::Check(need),
                },
                Task::Repairing(repairs) => match repairs.need(now.steady) {
                    RepairNeed::Repair(difference) => return Need::Repair { difference, run: self.seed },
                    RepairNeed::Page { after } => return Need::Check(CheckNeed::Page { after }),
                    RepairNeed::Wait(until) => return Need::Wait(until),
                    RepairNeed::Done => self.all_repaired(now),
                },
            }
        }
    }

    fn begin(&mut self, now: Now) {
        self.run = std::mem::take(&mut self.wanted);
        self.repaired = None;
        let next = self.policy.every.mul_f64(1.0 + 0.1 * self.fraction());
        self.set_due(next, now);
        self.is_changed = false;
        if self.run.after_outage {
            self.catch_up();
        }
        self.await_backlog(now);
    }

    fn await_backlog(&mut self, now: Now) {
        self.task = Task::Backlog { through: None, oldest: 0, moved_at: now.steady, look_at: now.steady };
    }

    fn catch_up(&mut self) {
        // What was found and repaired is not known to be in step before it is compared again.
        if self.standing.state != SyncState::CatchingUp && self.repaired.is_none() {
            self.standing.state = SyncState::CatchingUp;
            self.is_changed = true;
        }
    }

    /// This standing is stored, with what happened.
    pub fn saved(&mut self, stored: &Standing, now: Now) {
        self.is_changed = self.standing != *stored;
        self.happened = None;
        self.stored_at = now.steady;
    }

    /// The log ends with `last`, the oldest event with an open delivery is `oldest`, and there are `count` entities.
    pub fn backlog(&mut self, last: EventId, oldest: Option<EventId>, count: u64, now: Now) {
        let Task::Backlog { through, oldest: seen, moved_at, look_at } = &mut self.task else { return };
        let through = *through.get_or_insert(last);
        let open = oldest.filter(|oldest| *oldest <= through);
        if open.is_some_and(|oldest| oldest > *seen) {
            (*seen, *moved_at) = (open.unwrap_or(0), now.steady);
        }
        if open.is_none() || now.steady.since(*moved_at) >= STUCK {
            self.task = Task::Checking(Box::new(Check::new(count, self.policy.settle, self.max_held)));
            return;
        }
        let is_slow = now.steady.since(*moved_at) >= LOOK;
        *look_at = now.steady.plus(LOOK);
        if is_slow || self.run.after_outage {
            self.catch_up();
        }
    }

    /// The service has answered with its digest: see [`Check::digest`].
    pub fn digest(&mut self, asked: Asked, theirs: TheirDigest, ours: &Buckets, last: EventId, now: Now) {
        let Task::Checking(check) = &mut self.task else { return };
        if let Err(reason) = check.digest(asked, theirs, ours, last) {
            self.failed(format!("the digest is wrong: {reason}"), now);
        }
    }

    /// The service has answered with the entities of the bucket that was needed: see [`Check::bucket`].
    pub fn bucket(&mut self, asked: Asked, compared: Vec<Compared>, now: Now) {
        if let Task::Checking(check) = &mut self.task {
            check.bucket(asked, compared, now);
        }
    }

    /// The store has these entities after the key that was named.
    pub fn page(&mut self, page: Vec<Compared>, has_more: bool, now: Now) {
        match &mut self.task {
            Task::Checking(check) => check.page(page, has_more, now),
            Task::Repairing(repairs) => repairs.page(page, has_more, now, self.policy.settle),
            Task::Idle | Task::Backlog { .. } => {}
        }
    }

    /// The service has answered nothing that can be compared.
    pub fn failed(&mut self, reason: String, now: Now) {
        if !self.is_busy() {
            return;
        }
        self.standing.state = SyncState::Unknown;
        self.standing.differences = Counts::default();
        self.standing.checked_at = Some(now.day);
        self.is_told_synced = false;
        self.retry(reason, now);
    }

    /// The service takes nothing now, so that it was not asked.
    pub fn not_asked(&mut self, reason: String, now: Now) {
        if !self.is_busy() {
            return;
        }
        self.standing.state = SyncState::CatchingUp;
        self.retry(reason, now);
    }

    fn retry(&mut self, reason: String, now: Now) {
        if !matches!(self.task, Task::Repairing(_)) {
            self.ended = Some((Ended::Failed, Counts::default()));
        }
        self.standing.error = Some(reason);
        self.task = Task::Idle;
        let after = RETRY.saturating_mul(1 << self.failures.min(16)).min(self.policy.every);
        self.failures += 1;
        // What an operator has asked for is still to be done.
        self.wanted.repair = self.wanted.repair.or(self.run.repair);
        self.set_due(after, now);
        self.is_changed = true;
    }

    fn checked(&mut self, now: Now) {
        let Task::Checking(check) = std::mem::replace(&mut self.task, Task::Idle) else { return };
        let Verdict { as_of, lag, counts, sample, differences, is_empty, unjudged, is_cut, differing } =
            check.into_verdict();
        self.failures = 0;
        self.is_changed = true;
        let error = self.standing.error.take();
        let checked_at = Some(now.day);
        self.standing = Standing {
            state: SyncState::Synced,
            as_of,
            lag: Some(lag),
            checked_at,
            next_check_at: self.standing.next_check_at,
            error: None,
            differences: counts,
        };
        if counts.total() == 0 {
            if unjudged > 0 || is_cut {
                self.standing.state = SyncState::CatchingUp;
                self.wanted.repair = self.wanted.repair.or(self.run.repair);
                self.set_due(RETRY.min(self.policy.every), now);
                return;
            }
            self.ended = Some((Ended::Synced, counts));
            if !self.is_told_synced {
                self.is_told_synced = true;
                self.happened = Some(Happened::Synced { as_of });
            }
            return;
        }
        self.standing.state = SyncState::Diverged;
        self.ended = Some((Ended::Diverged, counts));
        self.is_told_synced = false;
        self.happened = Some(Happened::Diverged { counts, sample });
        if self.repaired.is_some() {
            self.standing.error = error.or_else(|| Some("it differs after repairs, too".to_owned()));
        }
        let ahead = self.run.repair == Some(true);
        let is_allowed = self.policy.repairs || self.run.repair.is_some();
        // What is still different after repairs is left to the next run, unless it could not all be repaired at once.
        let goes_on = match self.repaired {
            None => true,
            Some(before) => differing < before,
        };
        let is_repairable = counts.total() > counts.of(super::Kind::Ahead) || ahead;
        if is_allowed && goes_on && is_repairable {
            self.repaired = Some(if is_cut { differing } else { 0 });
            self.next_random();
            let repairs = Repairs::new(differences, is_empty, ahead, self.policy.rate, now.steady);
            self.task = Task::Repairing(Box::new(repairs));
        }
    }

    /// What was needed was repaired, or not.
    pub fn repaired(&mut self, how: Repaired, now: Now) {
        let Task::Repairing(repairs) = &mut self.task else { return };
        match repairs.repaired(how, now.steady) {
            Ok(Some(kind)) => {
                self.standing.differences.remove(kind, 1);
                self.is_changed = now.steady.since(self.stored_at) >= PROGRESS;
            }
            Ok(None) => {}
            Err(reason) => self.retry(format!("repairs ended: {reason}"), now),
        }
    }

    fn all_repaired(&mut self, now: Now) {
        if let Task::Repairing(repairs) = &self.task
            && let Some(reason) = &repairs.refusal
        {
            self.standing.error = Some(format!("{} repairs have failed, the last one: {reason}", repairs.refused));
            self.is_changed = true;
        }
        // What was written anew is delivered first.
        self.await_backlog(now);
    }

    fn set_due(&mut self, after: Duration, now: Now) {
        self.due = now.steady.plus(after);
        self.standing.next_check_at = Some(now.day.plus(after));
        self.is_changed = true;
    }

    /// A number in `[0, 1)`.
    fn fraction(&mut self) -> f64 {
        self.next_random();
        (self.seed >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The mixing of SplitMix64.
    fn next_random(&mut self) {
        let mut mixed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.seed = mixed ^ (mixed >> 31);
    }
}
