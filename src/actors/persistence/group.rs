//! What waits for the next commit, and who waits for it.

use tokio::sync::oneshot;

use super::messages::{AppendEvents, AppendFailure, AppendReply, SettleDeliveries};
use crate::domain::event::{Append, AppendOutcome};
use crate::domain::routes::ServiceId;
use crate::storage::Group;

/// The requests that go into one transaction.
#[derive(Default)]
pub struct Waiting {
    appends: Vec<AppendEvents>,
    settles: Vec<SettleDeliveries>,
    size: usize,
}

impl Waiting {
    pub fn append(&mut self, message: AppendEvents) {
        self.size += message.appends.iter().map(|append| append.events.len()).sum::<usize>();
        self.appends.push(message);
    }

    pub fn settle(&mut self, message: SettleDeliveries) {
        let marks: usize =
            message.durables.iter().map(|change| change.marks.len() + change.dead.len() + change.renewed.len()).sum();
        self.size += message.settlements.len() + message.events.len() + marks + 1;
        self.settles.push(message);
    }

    pub fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.settles.is_empty()
    }

    /// Roughly how many rows it writes.
    pub fn len(&self) -> usize {
        self.size
    }

    /// The transaction, and where to answer.
    pub fn into_group(self) -> (Group, Replies) {
        let Self { appends, settles, size: _ } = self;
        let mut group = Group::default();
        let mut replies = Replies::default();
        group.appends.reserve(appends.iter().map(|append| append.appends.len()).sum());
        for AppendEvents { appends, reply } in appends {
            replies.appends.push((appends.len(), reply));
            group.appends.extend(appends);
        }
        for SettleDeliveries { settlements, changes, durables, events, reply } in settles {
            group.settlements.extend(settlements);
            group.services.extend(changes);
            let about = durables.iter().map(|change| change.service).collect();
            group.durables.extend(durables);
            group.appends.extend(events.into_iter().map(Append::single));
            replies.others.push((about, reply));
        }
        (group, replies)
    }
}

type Reply = oneshot::Sender<Result<(), AppendFailure>>;

/// Who waits for a transaction.
#[derive(Default)]
pub struct Replies {
    /// With the number of outcomes of each; these come first.
    appends: Vec<(usize, oneshot::Sender<AppendReply>)>,
    /// With the durable subscriptions that each is about.
    others: Vec<(Vec<ServiceId>, Reply)>,
}

impl Replies {
    /// The transaction is on disk, but for what was said of the durable subscriptions in `void`.
    pub fn committed(self, mut outcomes: Vec<AppendOutcome>, void: &[ServiceId]) {
        outcomes.truncate(self.appends.iter().map(|(count, _)| count).sum());
        // From the back, so that each reply takes its share off the end.
        for (count, reply) in self.appends.into_iter().rev() {
            let share = outcomes.split_off(outcomes.len() - count);
            let _ = reply.send(Ok(share));
        }
        for (about, reply) in self.others {
            let is_void = about.iter().any(|service| void.contains(service));
            let _ = reply.send(if is_void { Err(AppendFailure::Void) } else { Ok(()) });
        }
    }

    /// Nothing of it is acknowledged.
    pub fn failed(self, reason: &str) {
        let failure = AppendFailure::StoreUnavailable(reason.to_owned());
        for (_, reply) in self.appends {
            let _ = reply.send(Err(failure.clone()));
        }
        for (_, reply) in self.others {
            let _ = reply.send(Err(failure.clone()));
        }
    }
}
