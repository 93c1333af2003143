//! Calls: requests to a service of which somebody must know whether they were done. What an attempt says of that, and
//! whether another one is made.
//!
//! - *CA-1* Nothing is said to be undone that may have been done: an attempt whose end nobody knows counts for ever, until
//!   the service says otherwise with a success.
//! - *CA-2* A call of which no attempt can have reached the service is known not to be done, also after a crash.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::retry::doubled;

/// Names a call; in the order in which calls were made.
pub type CallId = i64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Post,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// What a call is for, which decides what an answer means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    Action,
    /// Undoes an action. 410 means done, and so do these statuses; 404 does not mean that there is nothing to undo.
    Compensation {
        done: Vec<u16>,
    },
    /// Asks whether an action was done: 200 is yes, 404 no, all else asked again.
    Probe,
}

/// How often and how soon a call is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallPolicy {
    pub kind: CallKind,
    /// Attempts in all; at least one. A probe is made until it expires.
    pub max_attempts: u32,
    /// Upper bound of the random wait before the second attempt; doubles with each further one, up to the cap.
    pub retry_base: Duration,
    pub retry_cap: Duration,
}

/// What is known of a call before an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallHistory {
    /// Attempts that have ended, and count.
    pub attempts: u32,
    /// Some attempt may have reached the service, and its end is not known.
    pub may_be_done: bool,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempted {
    /// `retry_after`: what the service asked for, as far as that is applied. `is_whole`: the body did not break off.
    Answered {
        status: u16,
        retry_after: Option<Duration>,
        is_whole: bool,
    },
    Failed {
        is_perhaps_sent: bool,
    },
}

/// What is known of a call that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallEnd {
    Done,
    /// It is being done: 202.
    Accepted,
    /// The service has refused it, and has not done it.
    Refused,
    /// Nobody knows.
    Unknown,
    /// It never reached the service.
    NotSent,
}

/// What follows from an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    Ended(CallEnd),
    /// It is tried again, no sooner than after this time.
    Again(Duration),
    /// The service asks for this time. The attempt does not count.
    PutOff(Duration),
}

/// What an answer says by itself.
enum Said {
    End(CallEnd),
    Retry,
    PutOff(Duration),
}

impl CallHistory {
    /// Adds an attempt, and decides what follows. `jitter` is in `[0, 1)`.
    pub fn attempted(&mut self, policy: &CallPolicy, attempted: Attempted, jitter: f64) -> Judged {
        // What says that it was not done, if nothing before may have done it.
        let undone = match attempted {
            Attempted::Failed { .. } => CallEnd::NotSent,
            Attempted::Answered { .. } => CallEnd::Refused,
        };
        let (said, may_be_done) = match attempted {
            Attempted::Failed { is_perhaps_sent } => (Said::Retry, is_perhaps_sent),
            Attempted::Answered { status, retry_after, is_whole } => policy.kind.said(status, retry_after, is_whole),
        };
        self.may_be_done |= may_be_done;
        match said {
            Said::PutOff(wait) => return Judged::PutOff(wait),
            Said::End(end) => {
                self.attempts += 1;
                let is_unclear = end == CallEnd::Refused && self.may_be_done && policy.kind == CallKind::Action;
                return Judged::Ended(if is_unclear { CallEnd::Unknown } else { end });
            }
            Said::Retry => self.attempts += 1,
        }
        if self.attempts >= policy.max_attempts && policy.kind != CallKind::Probe {
            return Judged::Ended(if self.may_be_done { CallEnd::Unknown } else { undone });
        }
        let longest = doubled(policy.retry_base, self.attempts.saturating_sub(1), policy.retry_cap);
        // A probe is asked as often as was said.
        let share = if policy.kind == CallKind::Probe { 1.0 } else { jitter.clamp(0.0, 1.0) };
        Judged::Again(longest.mul_f64(share))
    }

    /// How it ends when it may not be tried any more.
    pub fn expired(self) -> CallEnd {
        if self.may_be_done { CallEnd::Unknown } else { CallEnd::NotSent }
    }
}

impl CallKind {
    /// What an answer says, and whether the call may have been done by that attempt without being said so.
    fn said(&self, status: u16, retry_after: Option<Duration>, is_whole: bool) -> (Said, bool) {
        if let (429 | 503, Some(wait)) = (status, retry_after.filter(|wait| !wait.is_zero())) {
            return (Said::PutOff(wait), status == 503);
        }
        let retried = (Said::Retry, status != 429);
        match (self, status) {
            (Self::Probe, 200) if is_whole => (Said::End(CallEnd::Done), false),
            (Self::Probe, 404) => (Said::End(CallEnd::Refused), false),
            (Self::Probe, _) => retried,
            (_, 200..=299) if !is_whole => retried,
            (_, 202) => (Said::End(CallEnd::Accepted), false),
            (_, 200..=299) => (Said::End(CallEnd::Done), false),
            (Self::Compensation { done }, status) if status == 410 || done.contains(&status) => {
                (Said::End(CallEnd::Done), false)
            }
            (Self::Compensation { .. }, 404) => retried,
            (_, 408 | 425 | 429) => retried,
            (_, 300..=499) => (Said::End(CallEnd::Refused), false),
            _ => retried,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(kind: CallKind) -> CallPolicy {
        CallPolicy { kind, max_attempts: 3, retry_base: SECOND, retry_cap: SECOND * 3 }
    }

    fn answered(status: u16) -> Attempted {
        Attempted::Answered { status, retry_after: None, is_whole: true }
    }

    /// What the attempts lead to, the last of them.
    fn end(kind: CallKind, attempts: &[Attempted]) -> Judged {
        let mut history = CallHistory::default();
        let judged = attempts.iter().map(|attempted| history.attempted(&policy(kind.clone()), *attempted, 1.0));
        judged.last().expect("an attempt")
    }

    #[test]
    fn an_answer_means_what_the_contract_says() {
        use CallEnd::{Accepted, Done, NotSent, Refused, Unknown};
        let undo = || CallKind::Compensation { done: vec![404] };
        let plain_undo = || CallKind::Compensation { done: Vec::new() };
        let lost = Attempted::Failed { is_perhaps_sent: true };
        let unreached = Attempted::Failed { is_perhaps_sent: false };
        let broken = Attempted::Answered { status: 200, retry_after: None, is_whole: false };
        let asked = |status| Attempted::Answered { status, retry_after: Some(SECOND * 9), is_whole: true };
        let ended = Judged::Ended;
        let again = Judged::Again;
        for (kind, attempts, expected) in [
            (CallKind::Action, &[answered(200)][..], ended(Done)),
            (CallKind::Action, &[answered(202)], ended(Accepted)),
            (CallKind::Action, &[answered(302)], ended(Refused)),
            (CallKind::Action, &[answered(410)], ended(Refused)),
            (CallKind::Action, &[answered(500)], again(SECOND)),
            (CallKind::Action, &[answered(500), answered(500)], again(SECOND * 2)),
            (CallKind::Action, &[answered(500), answered(409)], ended(Unknown)),
            (CallKind::Action, &[answered(425), answered(425), answered(425)], ended(Unknown)),
            (CallKind::Action, &[lost, answered(409)], ended(Unknown)),
            (CallKind::Action, &[lost, answered(201)], ended(Done)),
            (CallKind::Action, &[broken, broken, broken], ended(Unknown)),
            (CallKind::Action, &[unreached, unreached, unreached], ended(NotSent)),
            (CallKind::Action, &[unreached, answered(429), answered(429)], ended(Refused)),
            (CallKind::Action, &[unreached, lost, unreached], ended(Unknown)),
            (CallKind::Action, &[unreached, answered(404)], ended(Refused)),
            (CallKind::Action, &[asked(503), asked(429), asked(429), asked(429)], Judged::PutOff(SECOND * 9)),
            (CallKind::Action, &[asked(429), answered(400)], ended(Refused)),
            (CallKind::Action, &[asked(503), answered(400)], ended(Unknown)),
            (undo(), &[answered(404)], ended(Done)),
            (plain_undo(), &[answered(410)], ended(Done)),
            (plain_undo(), &[answered(404)], again(SECOND)),
            (plain_undo(), &[lost, answered(409)], ended(Refused)),
            (CallKind::Probe, &[answered(200)], ended(Done)),
            (CallKind::Probe, &[answered(404)], ended(Refused)),
            (CallKind::Probe, &[answered(202), answered(400), lost, answered(500)], again(SECOND * 3)),
        ] {
            assert_eq!(end(kind.clone(), attempts), expected, "{kind:?} {attempts:?}");
        }
    }

    fn attempted() -> impl Strategy<Value = Attempted> {
        let status = prop::sample::select(&[200u16, 202, 302, 400, 404, 408, 409, 410, 425, 429, 500, 503][..]);
        prop_oneof![
            (status, prop::option::of(Just(SECOND)), any::<bool>())
                .prop_map(|(status, retry_after, is_whole)| { Attempted::Answered { status, retry_after, is_whole } }),
            any::<bool>().prop_map(|is_perhaps_sent| Attempted::Failed { is_perhaps_sent }),
        ]
    }

    proptest! {
        /// CA-1 and CA-2: an action is said not to be done only if no attempt may have done it, and attempts that count
        /// are bounded.
        #[test]
        fn nothing_is_said_to_be_undone_that_may_have_been_done(
            attempts in prop::collection::vec(attempted(), 1..12), jitter in 0.0..1.0f64,
        ) {
            let (mut history, mut is_unclear) = (CallHistory::default(), false);
            for attempted in attempts {
                is_unclear |= match attempted {
                    Attempted::Failed { is_perhaps_sent } => is_perhaps_sent,
                    Attempted::Answered { status, is_whole, .. } => {
                        matches!(status, 408 | 425 | 500..) || (200..300).contains(&status) && !is_whole
                    }
                };
                let judged = history.attempted(&policy(CallKind::Action), attempted, jitter);
                prop_assert_eq!(history.may_be_done, is_unclear);
                prop_assert!(history.attempts <= 3);
                match judged {
                    Judged::Ended(CallEnd::Refused | CallEnd::NotSent) => prop_assert!(!is_unclear),
                    Judged::Ended(CallEnd::Unknown) => prop_assert!(is_unclear),
                    Judged::Ended(CallEnd::Done | CallEnd::Accepted) => {}
                    Judged::Again(wait) => prop_assert!(wait <= SECOND * 3 && history.attempts < 3),
                    Judged::PutOff(_) => {}
                }
                if matches!(judged, Judged::Ended(_)) {
                    break;
                }
            }
        }
    }
}
