//! Says which promises a history breaks, and by which of its lines.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use super::history::{At, ConsumerHistory, History, Outcome, Post, Publish, ServiceHistory, Stored, Subscriber};

/// Lines that are shown of one kind; the rest is counted.
const SHOWN: usize = 12;

/// What is promised of the whole cluster, whatever happens to its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    NothingAcknowledgedIsLost,
    IdsAreDense,
    IdsAreInCommitOrder,
    AnIdempotencyKeyStoresOnce,
    AScheduleComesOnce,
    APublishIsStoredOnce,
    ASubscriberSeesEachEventOnceInOrder,
    AServiceGetsEachEvent,
    AKeyIsInOrder,
    OneNodesAnswerCounts,
    AConsumerGetsEachEvent,
    WhatWasAcknowledgedDoesNotComeAgain,
}

/// A promise that is broken, and the lines of the history that show it.
#[derive(Debug, Clone)]
pub struct Violation {
    pub promise: Promise,
    pub who: String,
    pub lines: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { promise, who, lines } = self;
        writeln!(f, "broken: {promise:?} ({who}): {} lines", lines.len())?;
        lines.iter().take(SHOWN).try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// # Panics
/// When a promise is broken, with all that shows it.
pub fn assert_kept(history: &History) {
    let violations = check(history);
    let shown: String = violations.iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "the history breaks {} promises\n{shown}", violations.len());
}

/// All promises that `history` breaks.
pub fn check(history: &History) -> Vec<Violation> {
    let mut found = Found::default();
    log(history, &mut found);
    for subscriber in &history.subscribers {
        pushes(history, subscriber, &mut found);
    }
    for service in &history.services {
        arrivals(history, service, &mut found);
        key_order(history, service, &mut found);
        service.outcomes.iter().for_each(|outcome| attempts(service, outcome, &mut found));
    }
    for consumer in &history.consumers {
        acknowledgements(history, consumer, &mut found);
    }
    let violation = |((promise, who), lines)| Violation { promise, who, lines };
    found.0.into_iter().map(violation).collect()
}

/// The lines by promise, and by whom it concerns.
#[derive(Default)]
struct Found(BTreeMap<(Promise, String), Vec<String>>);

impl Found {
    fn add<'a>(&mut self, promise: Promise, who: &str, lines: impl IntoIterator<Item = &'a dyn fmt::Display>) {
        let known = self.0.entry((promise, who.to_owned())).or_default();
        known.extend(lines.into_iter().map(ToString::to_string));
    }
}

/// The events of the log whose names begin so.
fn wanted<'a>(history: &'a History, beginning: &'a str) -> impl Iterator<Item = &'a Stored> {
    history.log.iter().filter(move |event| event.name.starts_with(beginning))
}

fn log(history: &History, found: &mut Found) {
    let mut by_tag: BTreeMap<&str, Vec<&Stored>> = BTreeMap::new();
    for event in &history.log {
        by_tag.entry(event.tag.as_deref().unwrap_or_default()).or_default().push(event);
    }
    for pair in history.log.windows(2).filter(|pair| pair[1].id != pair[0].id + 1) {
        found.add(Promise::IdsAreDense, "log", [&pair[0] as &dyn fmt::Display, &pair[1]]);
    }
    let mut by_publish: BTreeMap<&str, Vec<&Publish>> = BTreeMap::new();
    for publish in &history.publishes {
        by_publish.entry(&publish.tag).or_default().push(publish);
        let there: &[&Stored] = by_tag.get(&*publish.tag).map_or(&[], Vec::as_slice);
        let is_same = |event: &&&Stored| (&event.name, &event.key) == (&publish.name, &publish.key) && event.id != 0;
        let is_there = match publish.stored_as() {
            Some(id) => there.iter().filter(is_same).any(|event| event.id == id),
            None => publish.answered.is_none() || there.iter().any(|event| is_same(&event)),
        };
        if !is_there {
            found.add(Promise::NothingAcknowledgedIsLost, "log", [publish as &dyn fmt::Display]);
        }
    }
    for (tag, publishes) in &by_publish {
        let there: &[&Stored] = by_tag.get(tag).map_or(&[], Vec::as_slice);
        let ids: BTreeSet<i64> = publishes.iter().filter_map(|publish| publish.stored_as()).collect();
        if there.len() > 1 || ids.len() > 1 {
            let is_scheduled =
                |publish: &&&Publish| publish.answered.is_some_and(|(_, a)| a == super::history::Answer::Scheduled);
            let promise = match publishes[0] {
                _ if publishes.iter().any(|publish| is_scheduled(&publish)) => Promise::AScheduleComesOnce,
                Publish { idempotency_key: Some(_), .. } => Promise::AnIdempotencyKeyStoresOnce,
                _ => Promise::APublishIsStoredOnce,
            };
            found.add(promise, "log", publishes.iter().map(|publish| *publish as &dyn fmt::Display));
            found.add(promise, "log", there.iter().map(|event| *event as &dyn fmt::Display));
        }
    }
    commit_order(&by_publish, found);
}

/// Whoever was answered before another has asked has the lower id.
fn commit_order(by_publish: &BTreeMap<&str, Vec<&Publish>>, found: &mut Found) {
    let mut asked: Vec<(At, i64, &Publish)> = Vec::new();
    let mut answered: Vec<(At, i64, &Publish)> = Vec::new();
    for publishes in by_publish.values() {
        let Some(id) = publishes.iter().find_map(|publish| publish.stored_as()) else { continue };
        let first = publishes.iter().min_by_key(|publish| publish.asked);
        asked.extend(first.map(|publish| (publish.asked, id, *publish)));
        let told = publishes.iter().filter_map(|publish| Some((publish.answered?.0, id, *publish)));
        answered.extend(told.min_by_key(|(at, ..)| *at));
    }
    asked.sort_by_key(|(at, ..)| *at);
    answered.sort_by_key(|(at, ..)| *at);
    let mut answered = answered.into_iter().peekable();
    let mut greatest: Option<(i64, &Publish)> = None;
    for (at, id, publish) in asked {
        while let Some((_, id, before)) = answered.next_if(|(answered, ..)| *answered < at) {
            greatest = greatest.filter(|(known, _)| *known > id).or(Some((id, before)));
        }
        if let Some((_, before)) = greatest.filter(|(known, _)| *known > id) {
            found.add(Promise::IdsAreInCommitOrder, "log", [before as &dyn fmt::Display, publish]);
        }
    }
}

fn pushes(history: &History, subscriber: &Subscriber, found: &mut Found) {
    let promise = Promise::ASubscriberSeesEachEventOnceInOrder;
    let Subscriber { name, wants, pushes } = subscriber;
    for pair in pushes.windows(2).filter(|pair| pair[1].id <= pair[0].id) {
        found.add(promise, name, [&pair[0] as &dyn fmt::Display, &pair[1]]);
    }
    let wanted: BTreeMap<i64, &Stored> = wanted(history, wants).map(|event| (event.id, event)).collect();
    let seen: BTreeSet<i64> = pushes.iter().map(|push| push.id).collect();
    let missed = wanted.values().filter(|event| !seen.contains(&event.id));
    found.add_all(promise, name, missed.map(|event| *event as &dyn fmt::Display));
    let is_another = |id: i64, tag: &Option<String>| wanted.get(&id).is_none_or(|event| event.tag != *tag);
    let others = pushes.iter().filter(|push| is_another(push.id, &push.tag));
    found.add_all(promise, name, others.map(|push| push as &dyn fmt::Display));
}

fn arrivals(history: &History, service: &ServiceHistory, found: &mut Found) {
    let accepted: BTreeSet<i64> = service.posts.iter().filter(|post| post.is_accepted()).map(|post| post.id).collect();
    let missed = wanted(history, &service.wants).filter(|event| !accepted.contains(&event.id));
    let promise = Promise::AServiceGetsEachEvent;
    found.add_all(promise, &service.name, missed.map(|event| event as &dyn fmt::Display));
    let untrue = service.outcomes.iter().filter(|outcome| outcome.is_delivered && !accepted.contains(&outcome.id));
    found.add_all(promise, &service.name, untrue.map(|outcome| outcome as &dyn fmt::Display));
}

fn key_order(history: &History, service: &ServiceHistory, found: &mut Found) {
    let mut first: HashMap<i64, &Post> = HashMap::new();
    let mut ended: HashMap<i64, At> = HashMap::new();
    for post in &service.posts {
        first.entry(post.id).or_insert(post);
        if let Some(at) = post.ended() {
            let known = ended.entry(post.id).or_insert(at);
            *known = at.min(*known);
        }
    }
    let mut before: HashMap<&str, &Stored> = HashMap::new();
    for event in wanted(history, &service.wants) {
        let Some(key) = event.key.as_deref() else { continue };
        let Some(earlier) = before.insert(key, event) else { continue };
        let Some(arrival) = first.get(&event.id) else { continue };
        if ended.get(&earlier.id).is_none_or(|at| *at > arrival.arrived) {
            let of_earlier = service.posts.iter().filter(|post| post.id == earlier.id);
            let lines = of_earlier.map(|post| post as &dyn fmt::Display).chain([*arrival as &dyn fmt::Display]);
            found.add(Promise::AKeyIsInOrder, &service.name, lines);
        }
    }
}

/// The attempts of a delivery are counted once, each is a post that came, and each began when the one before had ended.
fn attempts(service: &ServiceHistory, outcome: &Outcome, found: &mut Found) {
    let of_it: BTreeMap<usize, &Post> =
        service.posts.iter().filter(|post| post.id == outcome.id).map(|post| (post.number, post)).collect();
    let failed = outcome.failed.len();
    let mut is_kept = outcome.attempts == failed + usize::from(outcome.is_delivered);
    let mut last = Duration::ZERO;
    for (at, (attempt, status, number)) in outcome.failed.iter().enumerate() {
        is_kept &= *attempt == at + 1;
        let Some(number) = number else { continue };
        match of_it.get(number) {
            Some(Post { arrived, answered: Some((answered, answer)), .. }) => {
                is_kept &= Some(*answer) == *status && *arrived >= last;
                last = *answered;
            }
            _ => is_kept = false,
        }
    }
    if !is_kept {
        let posts = of_it.values().map(|post| *post as &dyn fmt::Display);
        found.add(
            Promise::OneNodesAnswerCounts,
            &service.name,
            [outcome as &dyn fmt::Display].into_iter().chain(posts),
        );
    }
}

fn acknowledgements(history: &History, consumer: &ConsumerHistory, found: &mut Found) {
    let ConsumerHistory { name, wants, given, acked } = consumer;
    let known: BTreeSet<i64> = given.iter().map(|given| given.id).collect();
    let confirmed: BTreeMap<i64, At> = acked.iter().rev().map(|acked| (acked.id, acked.at)).collect();
    let is_missed = |event: &&Stored| !known.contains(&event.id) || !confirmed.contains_key(&event.id);
    let missed = wanted(history, wants).filter(is_missed);
    found.add_all(Promise::AConsumerGetsEachEvent, name, missed.map(|event| event as &dyn fmt::Display));
    for again in given.iter().filter(|given| confirmed.get(&given.id).is_some_and(|at| *at < given.at)) {
        let of_it = given.iter().chain(acked).filter(|line| line.id == again.id);
        found.add(Promise::WhatWasAcknowledgedDoesNotComeAgain, name, of_it.map(|line| line as &dyn fmt::Display));
    }
}

impl Found {
    /// The same, if there is anything.
    fn add_all<'a>(&mut self, promise: Promise, who: &str, lines: impl IntoIterator<Item = &'a dyn fmt::Display>) {
        let mut lines = lines.into_iter().peekable();
        if lines.peek().is_some() {
            self.add(promise, who, lines);
        }
    }
}
