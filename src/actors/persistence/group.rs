//! The requests that wait for the next commit, and where their answers go.

use tokio::sync::oneshot;

use super::messages::{AppendEvents, AppendFailure, AppendReply, CommitReply, CommitWrites};
use crate::storage::{Group, Outcome, Write};

/// The requests that go into one transaction.
///
/// Publishes come before all other writes, so that they share one statement. That reorders nothing that a sender could
/// see: none of the publishes is answered yet, so nobody who sent another write knows of them.
#[derive(Default)]
pub struct Waiting {
    publishes: Vec<AppendEvents>,
    others: Vec<CommitWrites>,
    size: usize,
}

impl Waiting {
    pub fn publish(&mut self, message: AppendEvents) {
        self.size += message.appends.iter().map(|append| append.events.len()).sum::<usize>();
        self.publishes.push(message);
    }

    pub fn write(&mut self, message: CommitWrites) {
        self.size += message.writes.iter().map(Write::rows).sum::<usize>();
        self.others.push(message);
    }

    pub fn is_empty(&self) -> bool {
        self.publishes.is_empty() && self.others.is_empty()
    }

    /// The approximate number of rows to be written.
    pub fn len(&self) -> usize {
        self.size
    }

    /// The transaction, and where its answers go.
    pub fn into_group(self) -> (Group, Replies) {
        let Self { publishes, others, size: _ } = self;
        let mut replies = Replies::default();
        let appends: usize = publishes.iter().map(|message| message.appends.len()).sum();
        let writes: usize = others.iter().map(|message| message.writes.len()).sum();
        let mut group = Group { writes: Vec::with_capacity(appends + writes), ..Group::default() };
        for AppendEvents { appends, reply } in publishes {
            replies.publishes.push((appends.len(), reply));
            group.writes.extend(appends.into_iter().map(Write::Append));
        }
        for CommitWrites { fences, writes, reply } in others {
            replies.others.push((writes.len(), reply));
            group.extend(fences, writes);
        }
        (group, replies)
    }
}

/// Where the answers of a transaction go, each with the number of its writes, in the order of the list.
#[derive(Default)]
pub struct Replies {
    publishes: Vec<(usize, oneshot::Sender<AppendReply>)>,
    others: Vec<(usize, oneshot::Sender<CommitReply>)>,
}

impl Replies {
    /// The transaction is on disk.
    pub fn committed(self, outcomes: Vec<Outcome>) {
        let mut outcomes = outcomes.into_iter();
        for (count, reply) in self.publishes {
            let mut share = Vec::with_capacity(count);
            share.extend(outcomes.by_ref().take(count).filter_map(Outcome::appended));
            let _ = reply.send(Ok(share));
        }
        for (count, reply) in self.others {
            let _ = reply.send(Ok(outcomes.by_ref().take(count).collect()));
        }
    }

    /// Nothing of the transaction is acknowledged.
    pub fn failed(self, failure: &AppendFailure) {
        for (_, reply) in self.publishes {
            let _ = reply.send(Err(failure.clone()));
        }
        for (_, reply) in self.others {
            let _ = reply.send(Err(failure.clone()));
        }
    }

    /// Whether the transaction can be split.
    pub fn are_many(&self) -> bool {
        self.others.len() + usize::from(!self.publishes.is_empty()) > 1
    }

    /// Splits a transaction: one group of all publishes, and one for each other request, which is one of its parts.
    pub fn apart(self, group: Group) -> Vec<(Group, Self)> {
        let mut writes = group.writes.into_iter();
        let published = self.publishes.iter().map(|(count, _)| count).sum();
        let appends: Vec<Write> = writes.by_ref().take(published).collect();
        let mut groups = vec![(appends.into(), Self { publishes: self.publishes, others: Vec::new() })];
        for ((count, reply), part) in self.others.into_iter().zip(group.parts) {
            let mut group = Group::default();
            group.extend(part.fences, writes.by_ref().take(count));
            groups.push((group, Self { publishes: Vec::new(), others: vec![(count, reply)] }));
        }
        groups
    }
}
