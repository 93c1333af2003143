//! Decides on the state of the system, as the holder of the lease, while there is something to decide.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{BEAT, SystemParts};
use crate::actors::clock;
use crate::actors::follower::tenure::{Candidate, Renewal};
use crate::domain::lease::Fence;
use crate::domain::system::{Answer, Change, Input, System, SystemState, transition_name};
use crate::storage::{Outcome, Write};

/// How often it is looked what services have answered.
const POLL: Duration = Duration::from_millis(50);

/// See the module.
pub(super) struct Deciding {
    pub(super) parts: SystemParts,
    pub(super) candidate: Candidate,
    /// Notified after each look at the store.
    pub(super) looked: Arc<Notify>,
}

impl Deciding {
    /// Decides until it is to stop.
    pub(super) async fn run(self) {
        let stop = self.candidate.stop.clone();
        loop {
            while !self.is_undecided() {
                if stop.or(timeout(BEAT, self.looked.notified())).await.is_none() {
                    return;
                }
            }
            // Another node may decide it meanwhile: then nothing is asked for, and what was granted is given up below.
            let may_act = || self.is_undecided() && self.parts.cluster.may_act();
            let Some(mut held) = self.candidate.wait(may_act, || {}).await else { return };
            loop {
                match self.candidate.renew(&mut held).await {
                    Some(Renewal::Held) => {}
                    Some(Renewal::Wanted | Renewal::Lost) | None => break,
                }
                if self.candidate.may_act(&held) && self.decide(&held.fence).await == Some(false) {
                    break;
                }
                if stop.or(sleep(POLL)).await.is_none() {
                    break;
                }
            }
            // If it is lost, that is void.
            self.candidate.release(held.fence);
            if stop.is_told() {
                return;
            }
        }
    }

    /// Whether something is to be decided, as of the last look.
    fn is_undecided(&self) -> bool {
        let view = &self.parts.view;
        let is_open = |system: &System| {
            let trouble = view.trouble();
            let is_troubled = trouble.as_ref().map_or(view.untold().is_some(), |trouble| !trouble.is_of_store);
            system.change.is_some()
                || system.state == SystemState::Running && is_troubled
                || system.state == SystemState::Degraded && trouble.is_none()
                || system.state == SystemState::Draining && view.ends_drain()
        };
        self.parts.health.store.is_up() && view.stored().is_some_and(|system| is_open(&system))
    }

    /// Decides what can be decided now; whether something was or is still to be. None: the store is away.
    async fn decide(&self, fence: &Fence) -> Option<bool> {
        let system = self.parts.reader.system().await.ok()?;
        let inputs = self.inputs(&system).await?;
        let is_over = system.change.is_none();
        if !inputs.is_empty() {
            let writes = inputs.into_iter().map(Write::ChangeSystem).collect();
            let answer = self.parts.persistence.commit_all(Some(fence.clone()), writes)?;
            if answer.await.ok()?.ok()?.contains(&Outcome::Void) {
                return Some(false);
            }
        }
        if is_over && self.parts.view.trouble().is_none_or(|trouble| !trouble.is_of_store) {
            self.parts.view.set_untold(None);
        }
        self.parts.view.wake();
        Some(!is_over)
    }

    /// What has happened. None: the store is away.
    async fn inputs(&self, system: &System) -> Option<Vec<Input>> {
        let view = &self.parts.view;
        if let Some(change) = &system.change {
            return self.of_change(change).await;
        }
        let new = || transition_name(rand::random());
        let (trouble, untold) = (view.trouble(), view.untold());
        Some(match (system.state, trouble) {
            (SystemState::Running, Some(trouble)) if !trouble.is_of_store => {
                vec![Input::Degraded { transition: new(), reason: trouble.reason.clone() }]
            }
            (SystemState::Running, None) => {
                // Another node may have told of the same trouble.
                let untold = untold.filter(|trouble| trouble.since >= system.since);
                let told = |reason: String| {
                    [Input::Degraded { transition: new(), reason }, Input::Recovered { transition: new() }]
                };
                untold.into_iter().flat_map(|trouble| told(trouble.reason.clone())).collect()
            }
            (SystemState::Degraded, None) => vec![Input::Recovered { transition: new() }],
            (SystemState::Draining, _) if view.ends_drain() => vec![Input::Drained { transition: new() }],
            _ => Vec::new(),
        })
    }

    /// What services have answered, and whether it is too late.
    async fn of_change(&self, change: &Change) -> Option<Vec<Input>> {
        let now = clock::now();
        let answers = self.parts.reader.system_answers(change.event).await.ok()?;
        let waiting: Vec<&str> = change.waiting_for().collect();
        let new = answers.into_iter().filter(|(service, _)| waiting.contains(&service.as_str()));
        let transition = || change.transition.clone();
        let mut inputs: Vec<Input> = new
            .map(|(service, answer)| match answer {
                Answer::Acknowledged => Input::Acknowledged { transition: transition(), service },
                Answer::Vetoed(status) => Input::Vetoed { transition: transition(), service, status },
            })
            .collect();
        if now >= change.due_at {
            inputs.push(Input::TimePassed { transition: transition() });
        }
        Some(inputs)
    }
}
