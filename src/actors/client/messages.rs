//! The messages that a client takes.

use std::time::Duration;

use actix::prelude::Message;
use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::oneshot;

use crate::domain::call::CallId;
pub use crate::domain::call::Method;
use crate::domain::priority::Lane;
use crate::domain::sync::Demand;
use crate::protocol::delivery_request::Headers;
use crate::runtime::address::{Mailbox, Undelivered};
use crate::storage::Claimed;

/// A command of an operator, or of the service itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceCommand {
    /// Send nothing, and keep what comes.
    Pause,
    /// Send again, beginning with what was kept.
    Resume,
    /// Keep the breaker open.
    Open,
    /// Keep the breaker closed.
    Close,
    /// Close the breaker, and count anew.
    Reset,
    /// For the synchronizer of the node that delivers to the service.
    Synchronize(Demand),
}

impl ServiceCommand {
    /// Those for deliveries.
    pub const ALL: [Self; 5] = [Self::Pause, Self::Resume, Self::Open, Self::Close, Self::Reset];

    /// Those for the synchronizer.
    const OF_SYNC: [Self; 5] = [
        Self::Synchronize(Demand::Check),
        Self::Synchronize(Demand::Repair { ahead: false }),
        Self::Synchronize(Demand::Repair { ahead: true }),
        Self::Synchronize(Demand::Cancel),
        Self::Synchronize(Demand::Recovered),
    ];

    /// The name in the store, and, of those for deliveries, on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Open => "open",
            Self::Close => "close",
            Self::Reset => "reset",
            Self::Synchronize(Demand::Check) => "sync.check",
            Self::Synchronize(Demand::Repair { ahead: false }) => "sync.repair",
            Self::Synchronize(Demand::Repair { ahead: true }) => "sync.repair_ahead",
            Self::Synchronize(Demand::Cancel) => "sync.cancel",
            Self::Synchronize(Demand::Recovered) => "sync.recovered",
        }
    }

    /// Reads the name in the store.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().chain(Self::OF_SYNC).find(|command| command.as_str() == text)
    }
}

/// Which process applies a command of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// This process has applied it.
    Here,
    /// The process that holds the lease will apply it.
    Elsewhere,
}

/// Apply a command of an operator. The answer comes when the command is stored; it is `None` while the store does not
/// know the service.
#[derive(Debug, Message)]
#[rtype(result = "Option<Applied>")]
pub struct Operate(pub ServiceCommand);

/// A request to a service that is no delivery: somebody in this process asks for it, and waits for the answer. It is
/// sent as deliveries are, with the same limits and headers; see [`super::asks`].
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    /// Below the service's URL, perhaps with a query; `None`: where its deliveries go.
    pub path: Option<String>,
    /// Besides the headers of all requests to the service, and those that name and sign it.
    pub headers: Headers,
    /// Empty, if it is a GET.
    pub body: Bytes,
    /// `webhook-id`, and `Idempotency-Key` of a POST: the same at every try. In visible ASCII.
    pub id: String,
    /// Of the event that has caused it.
    pub traceparent: Option<ByteString>,
    /// Ordering key: it is not under way together with a delivery of this key, and goes after those in hand.
    pub key: Option<ByteString>,
    pub lane: Lane,
    /// How long it may wait to be sent. An attempt under way then goes on to its own end.
    pub patience: Duration,
    /// Bytes of the answer's body that are kept.
    pub max_answer_bytes: usize,
    /// Whether a failure is tried again by the schedule of the service, within the patience.
    pub is_retried: bool,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The service has answered, whatever the status. `is_repeat`: it may have got the request once before, without
    /// having said what became of it.
    Answered { status: u16, content: Content, is_repeat: bool },
    /// The service has not seen it.
    NotSent(NotSent),
    /// There was no answer to the last try. Whether the service may have seen the request is of all tries.
    Failed { kind: &'static str, message: String, is_perhaps_sent: bool },
}

/// The whole of an answer, for who has asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// As much as arrived, up to the bound.
    pub body: Bytes,
    pub end: BodyEnd,
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    Whole,
    /// It is longer than the bound.
    TooLong,
    /// The connection ended within it, or the timeout of the attempt passed.
    BrokenOff,
}

/// Why a request was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSent {
    /// It has waited as long as it may: the breaker is open, the service paused, or others went first.
    OutOfTime,
    /// As many wait as may wait.
    Full,
    /// The body is longer than the service accepts.
    TooLarge,
    /// Another node delivers to the service, or none.
    NotHere,
    /// The client of the service ends, or has not started.
    Ended,
}

/// Send the request. Whatever happens, it is answered once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Ask {
    pub request: Request,
    pub asker: Asker,
    /// The call in the store that it is, if it is one.
    pub call: Option<AskedCall>,
}

/// A call in the store of which an attempt is to be made.
#[derive(Debug, Clone, Copy)]
pub struct AskedCall {
    pub id: CallId,
    /// The store knows already that the attempt may have been made. Else it is told before.
    pub is_marked: bool,
}

/// Who waits for an answer. When dropped unanswered, it learns that nobody will.
#[derive(Debug)]
pub struct Asker {
    told: Option<oneshot::Sender<Answer>>,
    /// Some try was begun: the service may have seen the request.
    is_tried: bool,
}

impl Asker {
    pub(super) fn new() -> (Self, oneshot::Receiver<Answer>) {
        let (told, answer) = oneshot::channel();
        (Self { told: Some(told), is_tried: false }, answer)
    }

    /// Of a call, the client knows what became of it.
    pub(super) fn nobody() -> Self {
        Self { told: None, is_tried: false }
    }

    /// A try begins.
    pub(super) fn tried(&mut self) {
        self.is_tried = true;
    }

    pub(super) fn answer(mut self, answer: Answer) {
        self.tell(answer);
    }

    fn tell(&mut self, answer: Answer) {
        // Who has asked may have gone.
        self.told.take().map(|told| told.send(answer));
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.tell(match self.is_tried {
            false => Answer::NotSent(NotSent::Ended),
            true => Answer::Failed {
                kind: "ended",
                message: "the client of the service has ended".to_owned(),
                is_perhaps_sent: true,
            },
        });
    }
}

/// Asks a service, and waits for what becomes of it.
pub async fn ask(client: &Mailbox<Ask>, request: Request) -> Answer {
    let (asker, answer) = Asker::new();
    if let Err(Undelivered::Full) = client.tell(Ask { request, asker, call: None }) {
        return Answer::NotSent(NotSent::Full);
    }
    answer.await.unwrap_or(Answer::NotSent(NotSent::Ended))
}

/// Which deliveries are sent, and not known to be settled in the store?
#[derive(Debug, Message)]
#[rtype(result = "Vec<Claimed>")]
pub struct ListInFlight;

/// Read the TLS files again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReadTls;
