//! A world: sagas, services that fail in every way, operators, two nodes that fight for the lease, and virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;

use super::check::{self, Truth};
use super::dice::{Dice, some_saga};
use super::ledger::{Kill, Ledger, Writes};
use super::services::{self, Client};
use crate::actors::call_ends::CallEnds;
use crate::actors::clock;
use crate::actors::cluster::Cluster;
use crate::actors::follower::Fold as _;
use crate::actors::orchestrator::commit::Commit;
use crate::actors::orchestrator::definitions::Definitions;
use crate::actors::orchestrator::desk::Desk;
use crate::actors::orchestrator::making::Means;
use crate::actors::orchestrator::running::{Running, RunningParts};
use crate::actors::service_slot::ServiceSlot;
use crate::domain::event::{EventId, Timestamp};
use crate::domain::lease::{Fence, LeaseName};
use crate::domain::routes::ServiceId;
use crate::domain::saga::{Definition, FOLLOWER, SagaIds, State, Verb};
use crate::runtime::address::Address;
use crate::storage::{Outcome, Reader, Write};

/// For how long things happen that nobody has to wait for.
const TURNS: usize = 50;

/// How long it takes until a node looks for what nobody has told it.
const LOOK: Duration = Duration::from_millis(500);

/// What all worlds in one store share.
pub struct Place {
    pub ledger: Arc<Mutex<Ledger>>,
    pub reader: Reader,
    pub means: Means,
    pub slot: Arc<ServiceSlot>,
    pub service: ServiceId,
    pub fence: Option<Fence>,
    /// That of the client of the service.
    pub client_fence: Fence,
    /// Worlds so far: the time of a later one is later.
    pub worlds: i64,
}

/// A process that runs sagas, or wants to.
struct Node {
    running: Running,
    call_ends: Arc<CallEnds>,
    held: Option<Fence>,
    after: EventId,
}

pub struct World<'a> {
    pub(super) place: &'a mut Place,
    pub(super) dice: Dice,
    pub(super) definitions: Vec<Definition>,
    nodes: [Node; 2],
    holder: usize,
    pub(super) desk: Desk,
    pub(super) now: Timestamp,
    pub(super) client: Client,
    pub(super) truth: Truth,
    /// Begun by hand, by its key.
    pub(super) by_hand: BTreeMap<String, String>,
    /// Triggers, and how often each has to begin an instance at least.
    pub(super) triggers: BTreeMap<EventId, bool>,
    pub(super) late: Option<Writes>,
    /// How often an operator has helped at the end.
    pub(super) helped: u32,
}

impl Place {
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nobody has panicked")
    }

    fn commit(&self) -> Commit {
        let ledger = Arc::clone(&self.ledger);
        Arc::new(move |fences, writes| {
            let (reply, answer) = oneshot::channel();
            let outcomes = ledger.lock().expect("nobody has panicked").commit(fences, writes)?;
            let _ = reply.send(Ok(outcomes));
            Some(answer)
        })
    }

    fn node(&self) -> Node {
        let call_ends = Arc::<CallEnds>::default();
        let running = Running::new(RunningParts {
            reader: self.reader.clone(),
            persistence: Address::vacant(),
            commit: self.commit(),
            position: Arc::default(),
            cluster: Arc::new(Cluster::of_one()),
            means: self.means.clone(),
            definitions: Arc::default(),
            ids: Arc::new(Mutex::new(SagaIds::default())),
            max_instances: 3,
            keep: Duration::from_secs(24 * 3600),
            call_ends: Arc::clone(&call_ends),
            metrics: Arc::clone(&self.means.metrics),
        });
        Node { running, call_ends, held: None, after: 0 }
    }
}

impl<'a> World<'a> {
    pub fn new(place: &'a mut Place, seed: u64, kill: Option<Kill>) -> Self {
        place.worlds += 1;
        let now = Timestamp(1_790_000_000_000_000 + place.worlds * 86_400_000_000);
        clock::simulate(Some(now));
        let mut dice = Dice::new(seed);
        let named = |n: u64| format!("w{seed}x{n}");
        let (stored, definitions) = (0..1 + dice.roll(2)).map(|n| some_saga(&mut dice, &named(n))).unzip();
        {
            let mut ledger = place.ledger();
            ledger.begin(None);
            let declared = ledger.apply(Vec::new(), vec![Write::DeclareSagas { node: "n".to_owned(), sagas: stored }]);
            assert_eq!(declared, [Outcome::Declared(Vec::new())]);
            ledger.begin(kill);
        }
        let nodes = [place.node(), place.node()];
        let desk = Desk {
            reader: place.reader.clone(),
            commit: place.commit(),
            means: place.means.clone(),
            definitions: Arc::<Definitions>::default(),
            ids: Arc::default(),
            max_instances: 3,
        };
        Self {
            place,
            dice,
            definitions,
            nodes,
            holder: 0,
            desk,
            now,
            client: Client::default(),
            truth: Truth::default(),
            by_hand: BTreeMap::new(),
            triggers: BTreeMap::new(),
            late: None,
            helped: 0,
        }
    }

    /// Lets it turn until nothing can happen any more, and checks it. Returns how many transactions there were, and how
    /// the instances have ended.
    pub async fn run(&mut self) -> (usize, Vec<State>) {
        for _ in 0..TURNS {
            self.turn().await;
            self.after_a_kill();
        }
        let late = self.late.take();
        self.come_late(late);
        self.calm_down().await;
        self.check().await;
        let (transactions, states) = {
            let ledger = self.place.ledger();
            (ledger.transactions, ledger.instances.values().map(|seen| seen.standing.state).collect())
        };
        self.clear_up().await;
        (transactions, states)
    }

    /// How many transactions were void.
    pub fn voids(&self) -> usize {
        self.place.ledger().voids
    }

    /// What the client shares with who follows calls on its node.
    pub(super) fn call_ends(&self) -> &CallEnds {
        &self.nodes[self.client.at].call_ends
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        clock::simulate(Some(self.now));
    }

    async fn turn(&mut self) {
        self.pass(Duration::from_millis(3));
        match self.dice.roll(16) {
            0 | 1 => self.trigger(),
            2 | 3 => self.some_reply(),
            4 if self.dice.one_in(3) => {
                let seconds = self.dice.roll(40);
                self.pass(Duration::from_secs(seconds));
            }
            5 | 6 => self.operator().await,
            7 if self.dice.one_in(4) => self.fight(),
            7 if self.dice.one_in(3) => self.stall().await,
            7 if self.dice.one_in(3) => services::fail_over(self),
            8..=10 => _ = services::begin(self).await,
            11..=12 => _ = services::end(self).await,
            _ => {
                let node = if self.dice.one_in(4) { 1 - self.holder } else { self.holder };
                _ = self.step(node).await;
            }
        }
        if self.late.is_some() && self.dice.one_in(3) {
            let late = self.late.take();
            self.come_late(late);
        }
    }

    fn come_late(&mut self, late: Option<Writes>) {
        if let Some((fences, writes)) = late {
            self.place.ledger().apply(fences, writes);
        }
    }

    /// The other node takes the lease. Who had it does not know.
    fn fight(&mut self) {
        self.holder = 1 - self.holder;
        self.take_lease();
    }

    fn take_lease(&mut self) {
        let mut ledger = self.place.ledger();
        let fence = ledger.take_lease(LeaseName::sagas(), self.place.fence.as_ref());
        drop(ledger);
        self.place.fence = Some(fence);
    }

    /// The holder hangs between deciding and storing, and goes on when another has the lease, or when the client has lost
    /// its patience.
    async fn stall(&mut self) {
        let stalled = self.holder;
        self.place.ledger().delays = true;
        self.step(stalled).await;
        let (fences, writes) = {
            let mut ledger = self.place.ledger();
            ledger.delays = false;
            let Some(delayed) = ledger.delayed.take() else { return };
            delayed
        };
        if self.dice.one_in(2) {
            if self.dice.one_in(2) {
                services::look(self).await;
            }
            self.place.ledger().apply(fences, writes);
            return;
        }
        self.fight();
        for _ in 0..self.dice.roll(3) {
            self.step(self.holder).await;
        }
        let outcomes = self.place.ledger().apply(fences, writes);
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Void), "an old holder writes nothing: {outcomes:?}");
    }

    /// A node does what there is to do. Whether it has done anything.
    async fn step(&mut self, at: usize) -> bool {
        let limit = 1 + self.dice.at(8);
        let room = self.dice.at(4);
        self.place.slot.set_room(room);
        let stores = self.dice.one_in(3);
        let before = self.place.ledger().transactions;
        let mut node = std::mem::replace(&mut self.nodes[at], self.place.node());
        if node.held.is_none() && at == self.holder {
            self.take_up(&mut node).await;
        }
        let goes_on = match node.held.clone() {
            Some(fence) => self.follow(&mut node, fence, limit, stores).await,
            None => true,
        };
        if !goes_on {
            node.running.end();
            node.held = None;
        }
        self.nodes[at] = node;
        self.place.ledger().transactions > before
    }

    async fn take_up(&mut self, node: &mut Node) {
        if self.place.fence.is_none() {
            self.take_lease();
        }
        let position = self.place.ledger().position();
        if let Some(after) = node.running.begin(position, &self.place.reader).await.expect("it never fails") {
            (node.held, node.after) = (self.place.fence.clone(), after);
        }
    }

    /// As [`Follower`](crate::actors::follower::Follower) does. Whether it is sure of what is stored.
    async fn follow(&mut self, node: &mut Node, fence: Fence, limit: usize, stores: bool) -> bool {
        let page = self.place.reader.follow(node.after, (limit, 1 << 20)).await.expect("read");
        if page.through > node.after {
            let Ok(Some(mut writes)) = node.running.fold(&page, &fence).await else { return false };
            node.after = page.through;
            if !writes.is_empty() || stores {
                let position = node.after.to_string();
                writes.push(Write::MovePosition { name: FOLLOWER.to_owned(), position });
                let outcomes = self.place.ledger().commit(vec![fence.clone()], writes);
                if outcomes.is_none_or(|outcomes| outcomes.contains(&Outcome::Void)) {
                    return false;
                }
            }
        }
        self.pass(Duration::from_millis(3));
        matches!(node.running.beside(&fence, clock::now()).await, Ok(Some(_)))
    }

    /// If the process was killed, nothing is left but the store.
    pub(super) fn after_a_kill(&mut self) {
        if !std::mem::take(&mut self.place.ledger().is_killed) {
            return;
        }
        services::killed(self);
        for at in 0..self.nodes.len() {
            self.nodes[at] = self.place.node();
        }
        self.desk.definitions = Arc::default();
        self.desk.ids = Arc::default();
        self.take_lease();
    }

    /// Until nothing is due any more.
    async fn calm_down(&mut self) {
        let mut quiet = 0;
        for _ in 0..2_000 {
            self.pass(Duration::from_millis(3));
            let mut has_done = self.step(self.holder).await;
            self.after_a_kill();
            has_done |= services::begin(self).await;
            self.after_a_kill();
            has_done |= services::end(self).await;
            self.after_a_kill();
            if has_done {
                quiet = 0;
                continue;
            }
            let reader = &self.place.reader;
            let saga = reader.next_saga_due().await.expect("read");
            let call = reader.next_due_call(self.place.service, self.now).await.expect("read");
            let due = saga.into_iter().chain(call).min();
            let is_behind = self.nodes[self.holder].after < reader.bounds().await.expect("read").last;
            quiet += 1;
            match due {
                // What it has not followed yet may still lead to something.
                _ if is_behind => quiet = 0,
                Some(due) if due > self.now => self.pass(due.since(self.now)),
                // What nobody has told of is found in this time.
                _ if quiet < 3 || due.is_some() => self.pass(LOOK),
                _ => {
                    quiet = 0;
                    if !self.help().await {
                        return;
                    }
                }
            }
        }
        panic!("it never ends");
    }

    async fn check(&self) {
        let ids = self.place.ledger().which(|_| true);
        let stored = self.place.reader.sagas(ids.clone()).await.expect("read");
        assert_eq!(stored.len(), ids.len(), "none is lost");
        let definitions = Definitions::default();
        for stored in stored {
            let replayed = definitions.replay(&stored, &self.place.reader).await.expect("read");
            let (definition, instance) = replayed.expect("it can be replayed");
            let journal = stored.journal.expect("it can be read");
            check::instance(&definition, &instance, &journal, &self.place.ledger(), &self.truth);
        }
        self.check_triggers();
        // Nothing is left that would ever be sent.
        let far = Timestamp(i64::MAX);
        let open = self.place.reader.due_calls(self.place.service, far, Default::default(), 256).await.expect("read");
        let owners: BTreeSet<_> = open.iter().map(|call| call.call.owner.as_str()).collect();
        assert!(owners.is_empty(), "calls are left of {owners:?}");
    }

    /// An event begins one instance at most, and those that have to, one.
    fn check_triggers(&self) {
        let ledger = self.place.ledger();
        for (trigger, begins_always) in &self.triggers {
            let is_by = |trigger: &EventId| {
                let of = format!(r#""id":{trigger},"#);
                ledger.instances.values().filter(|seen| seen.origin.trigger.contains(&of)).count()
            };
            let begun = is_by(trigger);
            assert!(begun <= 1 && (begun == 1 || !begins_always), "the event {trigger} has begun {begun} instances");
        }
    }

    /// Leaves the store empty for the next one.
    async fn clear_up(&mut self) {
        self.place.ledger().kill = None;
        let stuck = self.place.ledger().which(|standing| standing.state.is_live());
        for id in stuck {
            self.desk.operate(&id, Verb::Abort, "it is over").await.expect("it is live");
        }
        let forget = Write::ForgetSagas { ended_before: Timestamp(i64::MAX), limit: 1000 };
        let end = self.place.ledger().log_end.to_string();
        let mut ledger = self.place.ledger();
        let undeclare = Write::DeclareSagas { node: "n".to_owned(), sagas: Vec::new() };
        let position = Write::MovePosition { name: FOLLOWER.to_owned(), position: end };
        ledger.apply(Vec::new(), vec![undeclare, forget, Write::ForgetCalls { through: i64::MAX }, position]);
    }
}
