//! Publish/subscribe of Redis, with the lists that keep what was published: channels and lists of the auction system.

use std::collections::BTreeMap;

use redis::Pipeline;

use super::{BusError, BusReason, Link};
use crate::config::PubSubConfig;
use crate::protocol::envelope::ALL;

/// The channel of all events.
pub const CHANNEL: &str = "events:all";
const DEAD_LETTERS: &str = "events:deadletter";

/// What goes out as one event.
#[derive(Debug)]
pub struct Publication<'a> {
    pub name: &'a str,
    pub envelope: Vec<u8>,
}

/// Publishes these in their order, keeps them in the lists, and adds dead letters: all of it, or nothing.
///
/// What is kept of a batch is what a list has room for. A list whose key is of another type is left out: that is what is
/// returned.
pub async fn publish(
    link: &mut Link,
    publications: &[Publication<'_>],
    dead_letters: &[Vec<u8>],
    config: &PubSubConfig,
) -> Result<Option<BusError>, BusError> {
    let mut commands = Pipeline::new();
    commands.cmd("MULTI");
    let mut by_name = BTreeMap::<&str, Vec<&[u8]>>::new();
    for Publication { name, envelope } in publications {
        by_name.entry(*name).or_default().push(envelope);
    }
    let all = publications.iter().map(|publication| &*publication.envelope).collect();
    by_name.insert(ALL, all);
    for (name, envelopes) in by_name {
        keep(&mut commands, &format!("events:history:{name}"), &envelopes, config.history);
    }
    let dead_letters: Vec<&[u8]> = dead_letters.iter().map(|letter| &**letter).collect();
    keep(&mut commands, DEAD_LETTERS, &dead_letters, config.deadletter);
    for Publication { name, envelope } in publications {
        commands.cmd("PUBLISH").arg(format!("events:{name}")).arg(&envelope[..]);
        commands.cmd("PUBLISH").arg(CHANNEL).arg(&envelope[..]);
    }
    commands.cmd("EXEC");
    let answers = link.ask_all(&commands).await?;
    match answers.into_iter().find_map(Result::err) {
        // It is found when all is done that can be; any other failure is found before anything is done.
        Some(error) if error.reason == BusReason::WrongType => Ok(Some(error)),
        Some(error) => Err(error),
        None => Ok(None),
    }
}

/// The newest come first.
fn keep(commands: &mut Pipeline, list: &str, texts: &[&[u8]], room: usize) {
    let kept = &texts[texts.len().saturating_sub(room)..];
    if !kept.is_empty() {
        commands.cmd("LPUSH").arg(list).arg(kept);
        commands.cmd("LTRIM").arg(list).arg(0).arg(room - 1);
    }
}
