//! The one way to the store, and what is seen there: every transaction of the engine, in order. Before and after each of
//! them the process may be killed, and one may come late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::actors::clock;
use crate::actors::service_slot::ServiceSlot;
use crate::domain::call::CallId;
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::lease::{Fence, Grant, LeaseName};
use crate::domain::membership::Term;
use crate::domain::placement::Placement;
use crate::domain::saga::{Entry, FOLLOWER, Fact, Origin, State, StepEnd};
use crate::storage::{CallRequest, CallSettled, Group, Outcome, SagaStanding, Seeker, Write, Writer};

/// Where the process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// Counted from zero.
    pub transaction: usize,
    /// Before it, or after it and before anybody knows.
    pub is_before: bool,
}

/// What was stored of an instance.
pub struct Seen {
    pub origin: Origin,
    pub standing: SagaStanding,
    /// Of each entry of the journal: the newest event when it was stored.
    pub log_ends: Vec<EventId>,
    /// Steps that are known to have succeeded.
    succeeded: BTreeSet<usize>,
}

pub type Writes = (Vec<Fence>, Vec<Write>);

pub struct Ledger {
    pub writer: Writer,
    pub term: Term,
    /// Of the only service.
    pub slot: Arc<ServiceSlot>,
    pub kill: Option<Kill>,
    pub is_killed: bool,
    /// The next transaction comes later.
    pub delays: bool,
    pub delayed: Option<Writes>,
    /// How many transactions of the engine there were.
    pub transactions: usize,
    pub log_end: EventId,
    pub instances: BTreeMap<String, Seen>,
    /// The first request of each call, by its owner and what that calls it.
    pub requests: BTreeMap<(String, String), CallRequest>,
    keys: BTreeMap<String, (String, String)>,
    /// Calls that have not ended, whose they are, and what it calls them.
    pub open_calls: BTreeMap<CallId, (String, String)>,
    /// Names and payloads of the events that the engine has published.
    pub told: Vec<(String, String)>,
    pub voids: usize,
}

impl Ledger {
    pub fn new(writer: Writer, term: Term, slot: Arc<ServiceSlot>) -> Self {
        Self {
            writer,
            term,
            slot,
            kill: None,
            is_killed: false,
            delays: false,
            delayed: None,
            transactions: 0,
            log_end: 0,
            instances: BTreeMap::new(),
            requests: BTreeMap::new(),
            keys: BTreeMap::new(),
            open_calls: BTreeMap::new(),
            told: Vec::new(),
            voids: 0,
        }
    }

    /// Begins another world in the same store.
    pub fn begin(&mut self, kill: Option<Kill>) {
        (self.kill, self.is_killed, self.delays, self.delayed) = (kill, false, false, None);
        (self.transactions, self.voids) = (0, 0);
        self.instances.clear();
        self.requests.clear();
        self.keys.clear();
        self.open_calls.clear();
        self.told.clear();
    }

    /// A transaction of the engine. None: whoever asks will not know.
    pub fn commit(&mut self, fences: Vec<Fence>, writes: Vec<Write>) -> Option<Vec<Outcome>> {
        if self.is_killed {
            return None;
        }
        if std::mem::take(&mut self.delays) {
            self.delayed = Some((fences, writes));
            return None;
        }
        let kill = self.kill.filter(|kill| kill.transaction == self.transactions);
        self.transactions += 1;
        if kill.is_some_and(|kill| kill.is_before) {
            self.is_killed = true;
            return None;
        }
        let outcomes = self.apply(fences, writes);
        self.is_killed = kill.is_some();
        (!self.is_killed).then_some(outcomes)
    }

    /// A transaction of anybody.
    pub fn apply(&mut self, fences: Vec<Fence>, writes: Vec<Write>) -> Vec<Outcome> {
        let seen = writes.clone();
        let mut group = Group::default();
        group.extend(fences, writes);
        let committed = self.writer.commit(&mut group, &Default::default(), clock::now()).expect("committed");
        self.note(&seen, &committed.outcomes);
        committed.events.iter().for_each(|event| self.note_event(event));
        committed.outcomes
    }

    fn note(&mut self, writes: &[Write], outcomes: &[Outcome]) {
        if outcomes.contains(&Outcome::Void) {
            assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Void), "all is void, or nothing: {outcomes:?}");
            self.voids += 1;
            return;
        }
        for (write, outcome) in writes.iter().zip(outcomes) {
            self.note_calls(write, outcome);
        }
        for write in writes {
            let Write::SaveSagas { steps, .. } = write else { continue };
            for step in steps {
                if let Some(new) = &step.new {
                    let seen = Seen {
                        origin: new.origin.clone(),
                        standing: SagaStanding { state: State::Queued, ..step.standing.clone() },
                        log_ends: Vec::new(),
                        succeeded: BTreeSet::new(),
                    };
                    assert!(self.instances.insert(step.id.clone(), seen).is_none(), "an instance is made once");
                }
                self.note_entries(&step.id, &step.standing, &step.entries);
            }
            let mut held = BTreeSet::new();
            for Seen { origin, standing, .. } in self.instances.values() {
                let is_live = standing.state.is_live() && standing.started_at.is_some();
                let is_first = !is_live || held.insert((&origin.saga, &origin.correlation));
                assert!(is_first, "one live instance of a value: {origin:?}");
            }
        }
    }

    fn note_entries(&mut self, id: &str, standing: &SagaStanding, entries: &[Entry]) {
        let seen = self.instances.get_mut(id).expect("it was made");
        let is_late = |entry: &Entry| matches!(entry.fact, Fact::LateReply { .. });
        assert!(seen.standing.state.is_live() || entries.is_empty() || entries.iter().all(is_late), "SG-4: {id}");
        seen.standing = standing.clone();
        for Entry { fact, .. } in entries {
            seen.log_ends.push(self.log_end);
            match fact {
                Fact::Ended { step, end: StepEnd::Succeeded, .. } => _ = seen.succeeded.insert(*step),
                Fact::NotDone { step } => _ = seen.succeeded.remove(step),
                _ => {}
            }
        }
    }

    fn note_calls(&mut self, write: &Write, outcome: &Outcome) {
        match (write, outcome) {
            (Write::MakeCalls(new), Outcome::Made(first)) => {
                for (id, call) in (*first..).zip(new) {
                    self.note_call(&call.owner, &call.tag, &call.request);
                    let is_open = |(of, tag): &(String, String)| (of, tag) == (&call.owner, &call.tag);
                    assert!(!self.open_calls.values().any(is_open), "one call at a time: {}", call.tag);
                    self.open_calls.insert(id, (call.owner.clone(), call.tag.clone()));
                }
                // As the registry of services does.
                self.slot.hand_calls((*first..).zip(new.iter().cloned()), clock::now());
            }
            (Write::SaveSagas { ended, .. }, _) => {
                ended.iter().for_each(|id| assert!(self.open_calls.remove(id).is_some(), "a call ends once: {id}"));
            }
            (Write::SettleCalls(outcomes), _) => {
                let over = outcomes.iter().filter(|outcome| matches!(outcome.settled, CallSettled::Ended { .. }));
                over.for_each(|outcome| _ = self.open_calls.remove(&outcome.id));
            }
            (Write::CancelCalls { owner, tag }, _) => {
                let is_it = |(of, named): &(String, String)| of == owner && tag.as_ref().is_none_or(|tag| tag == named);
                self.open_calls.retain(|_, call| !is_it(call));
            }
            _ => {}
        }
    }

    fn note_call(&mut self, owner: &str, tag: &str, request: &CallRequest) {
        let named = (owner.to_owned(), tag.to_owned());
        if tag.ends_with("/action") {
            let step = tag.trim_start_matches('s').trim_end_matches("/action").parse::<usize>().expect("a number") - 1;
            let is_known = self.instances.get(owner).is_some_and(|seen| seen.succeeded.contains(&step));
            assert!(!is_known, "an acknowledged step is called again: {named:?}");
        }
        if !tag.ends_with("/probe") {
            let by = self.keys.entry(request.idempotency_key.clone()).or_insert_with(|| named.clone());
            assert_eq!(*by, named, "a key is of one call");
        }
        let first = self.requests.entry(named.clone()).or_insert_with(|| request.clone());
        assert_eq!(*first, *request, "the same call is the same request: {named:?}");
    }

    fn note_event(&mut self, event: &Event) {
        self.log_end = event.id;
        if event.name.as_str().starts_with("$sys.saga.") || event.name.as_str().starts_with("told.") {
            self.told.push((event.name.to_string(), event.payload.to_string()));
        }
    }

    /// Takes a lease, whoever has it.
    pub fn take_lease(&mut self, lease: LeaseName, old: Option<&Fence>) -> Fence {
        if let Some(old) = old {
            self.writer.release(old).expect("released");
        }
        let (Grant::Taken { generation } | Grant::Kept { generation, .. }) = self.ask(&lease).0 else {
            panic!("the lease is not free")
        };
        Fence { lease, generation }
    }

    /// How far the holder of the lease has come.
    pub fn position(&mut self) -> Option<EventId> {
        self.ask(&LeaseName::sagas()).1.map(|position| position.parse().expect("an id"))
    }

    fn ask(&mut self, lease: &LeaseName) -> (Grant, Option<String>) {
        let mut placement = Placement::default();
        let seeker = Seeker { node: "n", term: Some(self.term), placement: &mut placement, now: Timestamp(10_000_000) };
        let leased = self.writer.lease_follower(lease, FOLLOWER, seeker).expect("the store answers");
        (leased.grant, leased.position)
    }

    /// Instances in a state.
    pub fn which(&self, is_it: impl Fn(&SagaStanding) -> bool) -> Vec<String> {
        let found = self.instances.iter().filter(|(_, seen)| is_it(&seen.standing));
        found.map(|(id, _)| id.clone()).collect()
    }
}
