//! Says whether what clients have seen of entities is linearizable.
//!
//! The log has every write that was done, in its order, so nothing has to be searched: the moments of the writes of an
//! entity rise in that order, each within its request. Whatever was seen of a state, by a read or a refusal, was seen
//! after the moment of the write that made it, and before that of the next one. The earliest moments that fulfil all of
//! this are found in one pass; if they do not, no others do.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Put(Condition),
    Delete(Condition),
    Read,
}

/// What has to be there for a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Any,
    /// Nothing.
    Absent,
    Version(i64),
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is done, and made this version.
    Written(i64),
    /// It is not done: this is what was there, by its version. Also the answer to a read; and to the deletion of what is
    /// not there, with none.
    There(Option<i64>),
    /// There is nothing, and the deletion has this version.
    Deleted(i64),
}

/// A request of a client, with a tag that no other has, which the value has too.
#[derive(Debug, Clone)]
pub struct Call {
    pub key: String,
    pub tag: String,
    pub ask: Ask,
    pub begun: Duration,
    /// When it was answered, and what. None: it may be done or not.
    pub answered: Option<(Duration, Answer)>,
    /// The tag in the value that was read.
    pub value: Option<String>,
}

/// A change in the log.
#[derive(Debug, Clone)]
pub struct Change {
    pub key: String,
    pub version: i64,
    pub previous: Option<i64>,
    pub tag: String,
    pub is_put: bool,
}

/// What must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What was acknowledged is not in the log, or not as was told.
    Lost,
    /// What was refused is in the log.
    RefusedAndDone,
    /// It was done though its condition was not met, or names another version before it.
    Condition,
    /// It was done before it was asked for, or after it was answered, or in another order.
    Order,
    /// What was seen was not there at any moment of the request.
    Seen,
    /// What was read is not the value of its version.
    Value,
}

#[derive(Debug, Clone)]
pub struct Violation {
    pub kind: Kind,
    pub lines: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        self.lines.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// How many calls have ended how.
pub fn outcomes(calls: &[Call]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for call in calls {
        let name = match (call.ask, call.answered.map(|(_, answer)| answer)) {
            (_, None) => continue,
            (Ask::Read, _) => "read",
            (Ask::Put(_), Some(Answer::Written(_))) => "put",
            (Ask::Delete(_), Some(Answer::Written(_))) => "deleted",
            (_, Some(_)) => "refused",
        };
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// All that is wrong.
pub fn check(calls: &[Call], log: &[Change]) -> Vec<Violation> {
    let mut by_key: BTreeMap<&str, (Vec<&Call>, Vec<&Change>)> = BTreeMap::new();
    calls.iter().for_each(|call| by_key.entry(&call.key).or_default().0.push(call));
    log.iter().for_each(|change| by_key.entry(&change.key).or_default().1.push(change));
    by_key.into_values().flat_map(|(calls, changes)| of_key(&calls, &changes)).collect()
}

fn of_key(calls: &[&Call], changes: &[&Change]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut add = |kind, lines: &[&dyn fmt::Debug]| {
        found.push(Violation { kind, lines: lines.iter().map(|line| format!("{line:?}")).collect() });
    };
    let by_tag: HashMap<&str, &Call> = calls.iter().map(|call| (&*call.tag, *call)).collect();
    let done: HashMap<&str, &Change> = changes.iter().map(|change| (&*change.tag, *change)).collect();
    for call in calls {
        let change = done.get(&*call.tag);
        match (call.ask, call.answered.map(|(_, answer)| answer), change) {
            (Ask::Read, ..) | (_, None, _) | (_, Some(Answer::There(_) | Answer::Deleted(_)), None) => {}
            (_, Some(Answer::Written(version)), Some(change)) if change.version == version => {}
            (_, Some(Answer::Written(_)), _) => add(Kind::Lost, &[call, &change]),
            (_, Some(_), Some(change)) => add(Kind::RefusedAndDone, &[call, change]),
        }
    }
    // State 0 is before the first write; state n is that after the n-th.
    let there = |state: usize| state.checked_sub(1).and_then(|at| changes[at].is_put.then_some(changes[at].version));
    for (before, change) in changes.iter().enumerate() {
        let asked = by_tag.get(&*change.tag).map(|call| call.ask);
        let is_met = match asked {
            Some(Ask::Put(condition)) if change.is_put => meets(condition, there(before)),
            Some(Ask::Delete(condition)) if !change.is_put => {
                there(before).is_some() && meets(condition, there(before))
            }
            _ => false,
        };
        if !is_met || change.previous != there(before) {
            add(Kind::Condition, &[&by_tag.get(&*change.tag), change, &there(before)]);
        }
    }
    // Of each state, who has surely seen it; and who has seen one of those without the entity.
    let mut seen: Vec<Vec<&Call>> = vec![Vec::new(); changes.len() + 1];
    let mut absent: Vec<&Call> = Vec::new();
    for call in calls {
        let version = match call.answered {
            Some((_, Answer::There(None))) => {
                absent.push(call);
                continue;
            }
            Some((_, Answer::There(Some(version)) | Answer::Deleted(version))) => version,
            Some((_, Answer::Written(_))) | None => continue,
        };
        let is_there = !matches!(call.answered, Some((_, Answer::Deleted(_))));
        match changes.iter().position(|change| change.version == version && change.is_put == is_there) {
            None => add(Kind::Seen, &[call, &"no such version"]),
            Some(at) => {
                if call.ask == Ask::Read && is_there && call.value.as_deref() != Some(&*changes[at].tag) {
                    add(Kind::Value, &[call, changes[at]]);
                }
                seen[at + 1].push(call);
            }
        }
    }
    let interval = |call: &Call| (call.begun, call.answered.map_or(Duration::MAX, |(at, _)| at));
    let of_write =
        |change: &Change| by_tag.get(&*change.tag).map_or((Duration::ZERO, Duration::MAX), |call| interval(call));
    // The earliest moment of each write, and the latest one.
    let mut earliest = vec![Duration::ZERO];
    for (before, change) in changes.iter().enumerate() {
        let (begun, end) = of_write(change);
        let written = earliest[before].max(begun);
        let at = seen[before].iter().map(|call| call.begun).max().map_or(written, |seen| seen.max(written));
        let write = by_tag.get(&*change.tag);
        if written > end {
            add(Kind::Order, &[&write, &before.checked_sub(1).map(|at| changes[at])]);
        } else if at > end {
            let seen: Vec<_> = seen[before].iter().filter(|call| call.begun > end).collect();
            add(Kind::Seen, &[&seen, &"after it was replaced by", &write]);
        }
        earliest.push(at.min(end.max(begun)));
    }
    for (state, calls) in seen.iter().enumerate() {
        for call in calls.iter().filter(|call| interval(call).1 < earliest[state]) {
            add(Kind::Seen, &[call, &"before it was there"]);
        }
    }
    let mut latest = vec![Duration::MAX; changes.len() + 2];
    for state in (1..=changes.len()).rev() {
        let seen = seen[state].iter().map(|call| interval(call).1).min().unwrap_or(Duration::MAX);
        latest[state] = latest[state + 1].min(of_write(changes[state - 1]).1).min(seen);
    }
    for call in absent {
        let (begun, end) = interval(call);
        let is_possible =
            |state: &usize| there(*state).is_none() && earliest[*state] <= end && latest[*state + 1] >= begun;
        if !(0..=changes.len()).any(|state| is_possible(&state)) {
            add(Kind::Seen, &[call, &"it was there all the time"]);
        }
    }
    found
}

fn meets(condition: Condition, there: Option<i64>) -> bool {
    match condition {
        Condition::Any => true,
        Condition::Absent => there.is_none(),
        Condition::Version(version) => there == Some(version),
    }
}
