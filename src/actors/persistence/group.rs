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
            let settlements_len = settlements.len();
            group.settlements.extend(settlements);
            let about = durables.iter().map(|change| change.service).collect();
            let share = [settlements_len, changes.len(), durables.len(), events.len()];
            group.services.extend(changes);
            group.durables.extend(durables);
            group.appends.extend(events.into_iter().map(Append::single));
            replies.others.push(Settler { about, share, reply });
        }
        (group, replies)
    }
}

fn take_last<T>(all: &mut Vec<T>, count: usize) -> Vec<T> {
    all.split_off(all.len() - count)
}

type Reply = oneshot::Sender<Result<(), AppendFailure>>;

/// Who waits for a transaction.
#[derive(Default)]
pub struct Replies {
    /// With the number of outcomes of each; these come first.
    appends: Vec<(usize, oneshot::Sender<AppendReply>)>,
    others: Vec<Settler>,
}

/// Who waits for what is no append.
struct Settler {
    /// The durable subscriptions that it is about.
    about: Vec<ServiceId>,
    /// How many settlements, changes of services and of durable subscriptions, and events of its are in the group.
    share: [usize; 4],
    reply: Reply,
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
        for Settler { about, reply, .. } in self.others {
            let is_void = about.iter().any(|service| void.contains(service));
            let _ = reply.send(if is_void { Err(AppendFailure::Void) } else { Ok(()) });
        }
    }

    /// Nothing of it is acknowledged.
    pub fn failed(self, failure: &AppendFailure) {
        for (_, reply) in self.appends {
            let _ = reply.send(Err(failure.clone()));
        }
        for Settler { reply, .. } in self.others {
            let _ = reply.send(Err(failure.clone()));
        }
    }

    /// Whether more than one transaction could be made of it.
    pub fn are_many(&self) -> bool {
        self.others.len() + usize::from(!self.appends.is_empty()) > 1
    }

    /// All appends in a group, and whatever else it was in one for each who waits for it.
    pub fn apart(self, mut group: Group) -> Vec<(Group, Self)> {
        let mut pieces = Vec::with_capacity(self.others.len() + 1);
        // From the back, so that each takes its share off the end.
        for settler in self.others.into_iter().rev() {
            let [settlements, services, durables, events] = settler.share;
            let piece = Group {
                appends: take_last(&mut group.appends, events),
                take_due: 0,
                settlements: take_last(&mut group.settlements, settlements),
                services: take_last(&mut group.services, services),
                durables: take_last(&mut group.durables, durables),
                lead: group.lead,
            };
            pieces.push((piece, Self { appends: Vec::new(), others: vec![settler] }));
        }
        pieces.push((group, Self { appends: self.appends, others: Vec::new() }));
        pieces.reverse();
        pieces
    }
}
