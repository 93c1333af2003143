//! The lease of whoever follows something from a stored position: one node in the whole cluster has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::actors::cluster::Cluster;
use crate::actors::persistence::Persistence;
use crate::actors::persistence::messages::{LeaseFollower, ReleaseLease};
use crate::domain::lease::{Fence, Grant, LeaseName};
use crate::runtime::address::Address;
use crate::runtime::stop::Stop;
use crate::storage::LeasedFollower;

/// How often the lease is asked for.
const LEASE_INTERVAL: Duration = Duration::from_millis(500);
/// For how long a node that has handed the lease over asks for none.
const HANDED_OVER: Duration = Duration::from_secs(2);
/// How often it is looked whether anything can be done again.
pub const PAUSE: Duration = Duration::from_millis(20);

/// Who asks for a lease, and of which position.
pub struct Candidate {
    pub lease: LeaseName,
    /// The name of the position; that of the follower too.
    pub position: String,
    pub persistence: Address<Persistence>,
    pub cluster: Arc<Cluster>,
    pub stop: Stop,
}

/// What the holder of the lease has.
pub struct Tenure {
    pub fence: Fence,
    /// As it was stored when the store was asked last.
    pub position: Option<String>,
    /// The generation of this node's membership to which it was granted.
    term: i64,
    asked_at: Instant,
}

/// Whether the lease is held still.
pub enum Renewal {
    Held,
    /// Another node is to have it, once nothing is under way: see [`Candidate::hand_over`].
    Wanted,
    Lost,
}

impl Candidate {
    /// Whether the lease can be acted on: nobody else can have taken it.
    pub fn may_act(&self, held: &Tenure) -> bool {
        self.cluster.may_act_in(held.term)
    }

    /// Asks for the lease until this node has it, while `may_act`. Calls `elsewhere` whenever another one has it. None:
    /// it is to stop.
    pub async fn wait(&self, may_act: impl Fn() -> bool, elsewhere: impl Fn()) -> Option<Tenure> {
        loop {
            let mut wait = PAUSE;
            if may_act()
                && let Some((held, is_wanted)) = self.stop.or(self.ask()).await?
            {
                wait = LEASE_INTERVAL;
                match held {
                    Some(held) if !is_wanted => return Some(held),
                    Some(held) => {
                        self.release(held.fence);
                        wait = HANDED_OVER;
                    }
                    None => elsewhere(),
                }
            }
            self.stop.or(tokio::time::sleep(wait)).await?;
        }
    }

    /// Asks anew if the last answer is old. None: it is to stop.
    pub async fn renew(&self, held: &mut Tenure) -> Option<Renewal> {
        if self.stop.is_told() {
            return None;
        }
        if held.asked_at.elapsed() < LEASE_INTERVAL {
            return Some(Renewal::Held);
        }
        Some(match self.stop.or(self.ask()).await? {
            Some((Some(now), is_wanted)) if now.fence == held.fence => {
                *held = now;
                if is_wanted { Renewal::Wanted } else { Renewal::Held }
            }
            Some(_) => Renewal::Lost,
            // Without the store nobody else gets it either.
            None => {
                held.asked_at = Instant::now();
                Renewal::Held
            }
        })
    }

    /// Nothing is under way: another node has its turn. None: it is to stop.
    pub async fn hand_over(&self, held: Tenure) -> Option<()> {
        log::info!(lease:% = held.fence.lease; "lease handed over");
        self.release(held.fence);
        self.stop.or(tokio::time::sleep(HANDED_OVER)).await
    }

    /// Another node may take the lease: this one asks for it again like the others.
    pub fn release(&self, fence: Fence) {
        // If nobody takes it, the lease ends with the membership.
        let _ = self.persistence.tell(ReleaseLease(fence));
    }

    /// What this node has, and whether another is to have it. None: the store does not answer.
    async fn ask(&self) -> Option<(Option<Tenure>, bool)> {
        let (asked_at, term) = (Instant::now(), self.cluster.generation());
        let question = LeaseFollower { lease: self.lease.clone(), position: self.position.clone() };
        let LeasedFollower { grant, position } = self.persistence.ask(question).await.ok()?.ok()?;
        let held = grant.generation().map(|generation| {
            let fence = Fence { lease: self.lease.clone(), generation };
            Tenure { fence, position, term, asked_at }
        });
        Some((held, matches!(grant, Grant::Kept { is_wanted: true, .. })))
    }
}
