//! This node and the others, for everybody on this node.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use futures_util::Stream;
use tokio::sync::watch;

use super::clock;
#[cfg(test)]
use crate::domain::event::Timestamp;
use crate::domain::membership::{NodeRecord, Term};
use crate::runtime::address::{Generation, changes};

/// What the membership actor has learned last; it alone writes this.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// None: this node is no member, and holds nothing.
    pub term: Option<Term>,
    /// All that are known, this one included.
    pub nodes: Vec<NodeRecord>,
}

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    name: Arc<str>,
    view: ArcSwap<View>,
    valid_until: AtomicI64,
    terms: watch::Sender<Generation>,
    name_taken: watch::Sender<bool>,
}

impl Cluster {
    /// Of the node `name`, which is no member yet.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            view: ArcSwap::default(),
            valid_until: AtomicI64::new(0),
            terms: watch::Sender::new(0),
            name_taken: watch::Sender::new(false),
        }
    }

    /// Of a node that is alone, and a member for good.
    #[cfg(test)]
    pub fn of_one() -> Self {
        let cluster = Self::new("one");
        let term = Some(Term { generation: 1, valid_until: Timestamp(i64::MAX), since: Timestamp(0) });
        cluster.set(View { term, nodes: Vec::new() });
        cluster
    }

    /// The name of this node.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether a holder may act now: nobody else can have taken what it holds (MB-1).
    pub fn may_act(&self) -> bool {
        clock::steady().0 < self.valid_until.load(Ordering::Acquire)
    }

    /// That of this node as a member; zero if it is none.
    pub fn generation(&self) -> i64 {
        self.view.load().term.map_or(0, |term| term.generation)
    }

    /// Whether other nodes share the store, as of the last answer of the store.
    pub fn has_others(&self) -> bool {
        self.view.load().nodes.iter().filter(|node| node.is_member()).count() > 1
    }

    /// The same for what was granted to this node as the member of this generation.
    pub fn may_act_in(&self, generation: i64) -> bool {
        self.generation() == generation && self.may_act()
    }

    /// As of the last answer of the store.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    pub fn set(&self, view: View) {
        let term = view.term;
        self.valid_until.store(term.map_or(0, |term| term.valid_until.0), Ordering::Release);
        self.view.store(Arc::new(view));
        let generation = term.map_or(0, |term| term.generation.unsigned_abs());
        self.terms.send_if_modified(|known| std::mem::replace(known, generation) != generation);
    }

    /// Whenever this node becomes a member, or is none any more: its generation, or zero.
    pub fn terms(&self) -> impl Stream<Item = Generation> + use<> {
        changes(self.terms.subscribe())
    }

    /// Another process is a member under this node's name: the node cannot go on.
    pub fn set_name_taken(&self) {
        self.name_taken.send_replace(true);
    }

    /// Until [`Self::set_name_taken`] was called.
    pub async fn name_taken(&self) {
        let _ = self.name_taken.subscribe().wait_for(|is_taken| *is_taken).await;
    }
}
