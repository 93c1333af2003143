//! `event-handler tail`: events as they are published.
//!
//! The command remembers the id of the last event it printed. Whatever ends a connection, it connects again and asks
//! for everything after that id, so that the lines have neither gap nor duplicate.
//!
//! Of several patterns each is a subscription. Until the last of them stands, events of the others may have come that
//! are newer than some that are still to come: these are remembered, and do not count as the place to go on from.
//!
//! With a durable subscription the service remembers: what was written to standard output is acknowledged.

mod ending;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use awc::error::{WsClientError, WsProtocolError};
use awc::ws::{Frame, Message};
use clap::Args;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use self::ending::{Ended, closed, lost, pause};
use super::Failure;
use super::api_client::ApiClient;
use super::event_line::event_line;
use super::output::{self, Printer};
use super::target::TargetArgs;
use crate::config::Config;
use crate::domain::event::EventId;

/// Between two pings to the service.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Time without a frame after which a connection counts as lost.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest frame taken.
const MAX_FRAME: usize = 1 << 30;

const EXAMPLES: &str = "\
Examples:
  event-handler tail 'user.>'                       what happens to users from now on
  event-handler tail '>' --after earliest           everything, from the first event kept
  event-handler tail order.paid --after 4711 --json | jq .payload
  event-handler tail 'user.>' 'order.>' --filter '{\"amount\":[{\"numeric\":[\">=\",100]}]}'
  event-handler tail 'order.>' --durable audit      goes on where it was, whenever it is started again

It waits for a service that is not there yet. When the connection is lost, it is made again and goes on after the last
event printed: nothing is missed, nothing printed twice. (With --durable, what was not acknowledged comes again.) The
history of several patterns comes pattern by pattern. What happens to the connection is said on standard error.";

/// Which events, and from where on.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TailArgs {
    /// Names or patterns: * is one segment of a name, > at the end is all that follow.
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Begin after the event with this id, or with the earliest one kept; without it, with the next one published.
    #[arg(long, value_name = "ID|earliest", value_parser = start)]
    after: Option<Start>,
    /// Only events whose payload passes this filter, as JSON: {"FIELD":[VALUE or CONDITION, …], …}.
    #[arg(long, value_name = "JSON", value_parser = filter)]
    filter: Option<Box<RawValue>>,
    /// Be a member of this durable subscription of one pattern, or make it: the service remembers how far it is.
    #[arg(long, value_name = "NAME")]
    durable: Option<String>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Give up (exit code 70) when there has been no connection for this many seconds.
    #[arg(long, value_name = "SECONDS")]
    give_up_after: Option<u64>,
    #[command(flatten)]
    target: TargetArgs,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Now,
    After(EventId),
    Earliest,
}

impl TailArgs {
    /// The changes of all entities of a type after an event, one JSON object a line.
    pub fn of_changes(kind: &str, after: EventId, target: TargetArgs) -> Self {
        Self {
            patterns: vec![format!("state.{kind}.changed")],
            after: Some(Start::After(after)),
            filter: None,
            durable: None,
            json: true,
            give_up_after: None,
            target,
        }
    }
}

/// Prints until interrupted, or until nobody reads what is printed.
pub fn run(args: &TailArgs, config: &Config) -> Result<(), Failure> {
    if args.durable.is_some() && args.patterns.len() > 1 {
        return Err(Failure::Usage("--durable takes one pattern".into()));
    }
    let api = ApiClient::new(args.target.resolve(config)?);
    let printer = Printer::start();
    let ended = actix_rt::System::new().block_on(async {
        let start = args.after.unwrap_or(Start::Now);
        let mut tail = Tail {
            api: &api,
            args,
            printer: &printer,
            start,
            log: None,
            early: BTreeSet::new(),
            standing: 0,
            stood: false,
        };
        tokio::select! {
            ended = tail.follow() => ended,
            () = interrupted() => Ok(()),
            () = output::closed() => Ok(()),
        }
    });
    // A failed standard output is the first cause.
    match printer.finish() {
        Err(Failure::OutputClosed) => Ok(()),
        finished => finished.and(ended),
    }
}

fn start(text: &str) -> Result<Start, String> {
    match text.parse::<EventId>() {
        Ok(id) if id >= 0 => Ok(Start::After(id)),
        _ if text == "earliest" => Ok(Start::Earliest),
        _ => Err("expected an event id (an integer from 0) or earliest".to_owned()),
    }
}

/// Kept as it was given, with every digit.
fn filter(text: &str) -> Result<Box<RawValue>, String> {
    serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))
}

async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

struct Tail<'a> {
    api: &'a ApiClient,
    args: &'a TailArgs,
    printer: &'a Printer,
    /// Where the next connection begins.
    start: Start,
    /// The log that `start` is a place in, as the service told.
    log: Option<String>,
    /// What was printed beyond that.
    early: BTreeSet<EventId>,
    /// Subscriptions of this connection that stand.
    standing: usize,
    /// Whether the present or last connection had its subscription.
    stood: bool,
}

/// A frame of the service, as far as it matters here.
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    last_id: EventId,
    #[serde(default = "always")]
    recovered: bool,
    #[serde(default)]
    earliest_id: EventId,
    log_id: Option<String>,
    /// Of a durable subscription: everything up to there is settled.
    #[serde(default)]
    after: EventId,
    error: Option<ToldError>,
}

#[derive(Deserialize)]
struct ToldError {
    code: String,
    message: String,
    retry_after_ms: Option<u64>,
}

fn always() -> bool {
    true
}

impl Tail<'_> {
    /// One connection after the other.
    async fn follow(&mut self) -> Result<(), Failure> {
        let mut is_new = true;
        let mut attempts = 0;
        let mut lost_since = Instant::now();
        loop {
            (self.stood, self.standing) = (false, 0);
            let ended = match self.api.ws("/ws").max_frame_size(MAX_FRAME).connect().await {
                Ok((_, connection)) => self.read(connection).await,
                Err(error) => self.not_connected(&error),
            };
            if self.stood {
                (attempts, lost_since, is_new) = (0, Instant::now(), false);
            }
            let (reason, at_once) = match ended {
                Ended::Lost { reason, at_once } => (reason, at_once),
                Ended::Unread => return Ok(()),
                Ended::Refused(failure) => return Err(failure),
            };
            if attempts == 0 {
                output::say(match is_new {
                    true => format!("event-handler: waiting for the service: {reason}"),
                    false => format!("event-handler: connection lost ({reason}), connecting again"),
                });
            }
            if self.args.give_up_after.is_some_and(|seconds| lost_since.elapsed() >= Duration::from_secs(seconds)) {
                return Err(Failure::GaveUp(format!("no connection: {reason}")));
            }
            attempts += u32::from(!at_once);
            tokio::time::sleep(pause(attempts)).await;
        }
    }

    fn not_connected(&self, error: &WsClientError) -> Ended {
        let failure = self.api.not_upgraded(error);
        let passing = match error {
            WsClientError::SendRequest(_) => true,
            WsClientError::InvalidResponseStatus(status) => status.is_server_error() || status.as_u16() == 429,
            _ => false,
        };
        if !passing {
            return Ended::Refused(failure);
        }
        Ended::Lost { reason: failure.to_string(), at_once: false }
    }

    /// Subscribes, then prints what comes.
    async fn read<C>(&mut self, mut connection: C) -> Ended
    where
        C: Stream<Item = Result<Frame, WsProtocolError>> + Sink<Message> + Unpin,
    {
        for (id, pattern) in (1..).zip(&self.args.patterns) {
            if connection.send(Message::Text(self.request(id, pattern).into())).await.is_err() {
                return lost("the request could not be sent");
            }
        }
        let mut pings = tokio::time::interval(PING_INTERVAL);
        let mut heard = Instant::now();
        loop {
            let frame = tokio::select! {
                frame = connection.next() => frame,
                _ = pings.tick() => {
                    let silent = heard.elapsed() > SILENCE;
                    if silent || connection.send(Message::Ping("".into())).await.is_err() {
                        return lost("no sign of life");
                    }
                    continue;
                }
            };
            heard = Instant::now();
            let ended = match frame {
                Some(Ok(Frame::Text(text))) => match self.take(&text).await {
                    Ok(None) => None,
                    Ok(Some(id)) => {
                        let ack = json!({"action": "ack", "id": id}).to_string();
                        connection.send(Message::Text(ack.into())).await.err().map(|_| lost("broken pipe"))
                    }
                    Err(ended) => Some(ended),
                },
                Some(Ok(Frame::Ping(data))) => {
                    connection.send(Message::Pong(data)).await.err().map(|_| lost("broken pipe"))
                }
                Some(Ok(Frame::Close(reason))) => Some(closed(reason)),
                Some(Ok(Frame::Pong(_) | Frame::Binary(_) | Frame::Continuation(_))) => None,
                Some(Err(error)) => Some(lost(&error.to_string())),
                None => Some(lost("the service went away")),
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    fn request(&self, id: usize, pattern: &str) -> String {
        let TailArgs { filter, durable, .. } = self.args;
        let mut request = json!({"action": "subscribe", "event_name": pattern, "id": id, "envelope": "full"});
        match self.start {
            Start::Now => {}
            Start::After(id) => request["after"] = id.into(),
            Start::Earliest => request["after"] = Value::from("earliest"),
        }
        if let Some(durable) = durable {
            request["durable"] = durable.as_str().into();
        }
        if let Some(log) = self.log.as_ref().filter(|_| self.start != Start::Now) {
            request["log_id"] = log.as_str().into();
        }
        let mut text = request.to_string();
        if let Some(filter) = filter {
            text.truncate(text.len() - 1);
            text = format!(r#"{text},"filter":{filter}}}"#);
        }
        text
    }

    /// Takes a frame. The id of an event that is to be acknowledged.
    async fn take(&mut self, text: &[u8]) -> Result<Option<EventId>, Ended> {
        let foreign = |error: String| Ended::Refused(Failure::Failed(format!("not an Event Handler: {error}")));
        let mut told: Told = serde_json::from_slice(text).map_err(|error| foreign(error.to_string()))?;
        match (told.kind.as_str(), told.error.take()) {
            ("event", _) => {
                let text = std::str::from_utf8(text).map_err(|error| foreign(error.to_string()))?;
                let (id, line) = event_line(text, self.args.json).map_err(|error| foreign(error.to_string()))?;
                self.event(id, line).await
            }
            ("subscribed", _) => {
                self.subscribed(&told);
                Ok(None)
            }
            ("error", Some(ToldError { code, message, retry_after_ms: Some(_) })) => {
                Err(Ended::Lost { reason: format!("{message} ({code})"), at_once: false })
            }
            // An operator has moved the durable subscription: what was said of an event before counts no more.
            ("error", Some(ToldError { code, message, .. })) if code == "not_delivered" => {
                output::say(format_args!("event-handler: {message} ({code})"));
                Ok(None)
            }
            ("error", Some(ToldError { code, message, .. })) => {
                Err(Ended::Refused(Failure::Failed(format!("{message} ({code})"))))
            }
            _ => Ok(None),
        }
    }

    async fn event(&mut self, id: EventId, line: String) -> Result<Option<EventId>, Ended> {
        if self.args.durable.is_some() {
            let is_written = self.printer.print(line).await && self.printer.written().await;
            return if is_written { Ok(Some(id)) } else { Err(Ended::Unread) };
        }
        let is_printed = self.early.contains(&id);
        if self.standing < self.args.patterns.len() {
            self.early.insert(id);
        } else {
            // From here on they come in order, and all of them.
            self.start = Start::After(id);
            self.early = self.early.split_off(&(id + 1));
        }
        if is_printed || self.printer.print(line).await { Ok(None) } else { Err(Ended::Unread) }
    }

    /// Once the last one stands nothing is missed: whoever began with the next event has a place to resume from.
    fn subscribed(&mut self, told: &Told) {
        let Told { last_id, recovered, earliest_id, after, .. } = *told;
        self.standing += 1;
        let before = std::mem::replace(&mut self.log, told.log_id.clone());
        let is_another = before.is_some() && before != self.log;
        if self.args.durable.is_some() {
            self.stood = true;
            self.say_subscribed(&format!("after event {after}"));
            if !recovered {
                output::say(format_args!("event-handler: events up to {} are no longer kept", earliest_id - 1));
            }
            // Its place is kept by the service from now on.
            self.start = Start::Now;
            return;
        }
        if self.standing == 1 {
            match self.start {
                // Of those that are asked for after it, some events are older than their subscription.
                Start::Now => self.start = Start::After(last_id),
                Start::After(_) if is_another => {
                    output::say(format_args!(
                        "event-handler: this is another log than before ({}); going on after event {last_id} of it",
                        self.log.as_deref().unwrap_or("without an identity")
                    ));
                    (self.start, self.early) = (Start::After(last_id), BTreeSet::new());
                }
                Start::After(id) if id > last_id => {
                    output::say(format_args!(
                        "event-handler: the log ends with event {last_id}: another database? going on from there"
                    ));
                    (self.start, self.early) = (Start::After(last_id), BTreeSet::new());
                }
                Start::After(id) if !recovered => output::say(format_args!(
                    "event-handler: events {} to {} are no longer kept; going on with {earliest_id}",
                    id + 1,
                    earliest_id - 1
                )),
                Start::After(_) | Start::Earliest => {}
            }
        }
        if self.standing == self.args.patterns.len() {
            self.stood = true;
            self.say_subscribed(&match self.start {
                Start::After(id) => format!("after event {id}"),
                Start::Now | Start::Earliest => "from the earliest event".to_owned(),
            });
        }
    }

    fn say_subscribed(&self, from: &str) {
        let (base, patterns) = (self.api.target().base(), self.args.patterns.join(", "));
        output::say(format_args!("event-handler: subscribed to {patterns} at {base} {from}"));
    }
}
