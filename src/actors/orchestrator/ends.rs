//! What the ends of calls mean for the instances that have made them.

use std::collections::BTreeSet;

use super::making;
use super::running::{AT_ONCE, Running, join};
use crate::actors::call_ends::HandedEnds;
use crate::actors::clock;
use crate::domain::event::Timestamp;
use crate::domain::lease::Fence;
use crate::domain::saga::{AT_COMMIT, Crowd, Member};
use crate::storage::{CallOutcome, CallSettled, EndedCall, StoreError, Write};

impl Running {
    /// Takes the ends of calls, those that were handed over and those that are stored. Returns how many there were; none if
    /// nothing is known to be stored.
    pub(super) async fn take_ends(&mut self, fence: &Fence) -> Result<Option<usize>, StoreError> {
        let handed = self.parts.call_ends.take(AT_ONCE);
        let are_stored = self.parts.call_ends.take_stored() || self.is_time_to_look();
        let stored = if are_stored { self.parts.reader.ended_calls(0, AT_ONCE).await? } else { Vec::new() };
        if stored.len() == AT_ONCE {
            self.parts.call_ends.set_stored();
        }
        let ended: Vec<&EndedCall> = handed.iter().flat_map(|handed| &handed.ended).chain(&stored).collect();
        if ended.is_empty() {
            return Ok(Some(0));
        }
        let now = clock::now();
        let (mut members, mut writes) = self.decide_on(&ended, now).await?;
        let open = handed.iter().flat_map(|handed| &handed.ended).map(|call| call.id).collect();
        join(&mut writes, self.parts.means.writes(&mut members, open, None, now));
        writes.extend(stored.last().map(|call| Write::ForgetCalls { through: call.place }));
        let count = ended.len();
        let fences = std::iter::once(fence).chain(handed.iter().map(|handed| &handed.fence)).cloned();
        if self.written(fences, writes).await.is_none() {
            return Ok(None);
        }
        handed.into_iter().for_each(HandedEnds::stored);
        self.note(members, now);
        Ok(Some(count))
    }

    /// Ends calls whose service is gone from the configuration, which nobody makes any more. None if nothing is known to be
    /// stored.
    pub(super) async fn end_strays(&self, fence: &Fence) -> Result<Option<()>, StoreError> {
        let configured = self.parts.means.services.iter().filter_map(|(_, slot)| slot.id()).collect();
        let stray = self.parts.reader.stray_calls(configured, AT_ONCE).await?;
        if stray.is_empty() {
            return Ok(Some(()));
        }
        log::warn!(calls = stray.len(); "calls of sagas end: their services are not configured any more");
        let ended = stray.into_iter().map(|(id, history)| CallOutcome {
            id,
            history,
            finished_at: clock::now(),
            http_status: None,
            error: Some("its service is not configured any more".to_owned()),
            settled: CallSettled::Ended { end: history.expired(), answer: None },
        });
        let ended = Write::SettleCalls(ended.collect());
        self.parts.call_ends.set_stored();
        Ok(self.written([fence.clone()], vec![ended]).await.map(drop))
    }

    /// What the ends of calls mean for the instances that have made them, and what is written for those that cannot be
    /// replayed.
    async fn decide_on(
        &mut self,
        ended: &[&EndedCall],
        now: Timestamp,
    ) -> Result<(Vec<Member>, Vec<Write>), StoreError> {
        let owners: BTreeSet<&str> = ended.iter().map(|call| call.owner.as_str()).collect();
        let means = self.parts.means.clone();
        let check = |effect: &_| means.check(effect);
        loop {
            let mut crowd = Crowd::new(now, AT_COMMIT, &check);
            let (mut recent, mut others) = (Vec::new(), Vec::new());
            for owner in &owners {
                match self.recent.get(owner) {
                    Some((definition, instance)) => {
                        crowd.add(definition, instance, &[], None);
                        recent.push(*owner);
                    }
                    None => others.push((*owner).to_owned()),
                }
            }
            let stored = if others.is_empty() { Vec::new() } else { self.parts.reader.sagas(others).await? };
            let writes = self.admit(stored, &mut crowd, now).await?;
            for call in ended {
                let Some(member) = crowd.member(&call.owner) else { continue };
                if let Some(input) = making::ended(&member.definition.clone(), call) {
                    let _ = crowd.tell(&call.owner, input);
                }
            }
            // What is written shows whether somebody else has decided since. Of whom nothing is, it is looked up.
            let has_changed = |owner: &str| crowd.member(owner).is_some_and(Member::has_changed);
            let doubtful: Vec<_> = recent.into_iter().filter(|owner| !has_changed(owner)).collect();
            if doubtful.is_empty() {
                return Ok((crowd.changed(), writes));
            }
            doubtful.into_iter().for_each(|owner| self.recent.forget(owner));
        }
    }
}
