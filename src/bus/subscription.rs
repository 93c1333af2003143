//! A connection that is given what others publish on a channel.

use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::Value;
use redis::aio::PubSubStream;

use super::{BusError, PATIENCE, Redis};

/// How often it is looked whether the server answers.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub struct Subscription {
    messages: PubSubStream,
    /// Ends when the server does not answer.
    failure: Pin<Box<dyn Future<Output = BusError>>>,
}

impl Redis {
    /// Subscribes to a channel, on a connection of its own: what is published from now on comes.
    pub async fn subscribe(&self, channel: &str) -> Result<Subscription, BusError> {
        let server = self.primary().await?;
        let subscribing = async {
            let mut pubsub = server.client.get_async_pubsub().await?;
            pubsub.subscribe(channel).await?;
            Ok(pubsub.split())
        };
        let (mut sink, messages) = server.in_time(PATIENCE, subscribing).await?;
        let failure = async move {
            loop {
                tokio::time::sleep(PING_INTERVAL).await;
                if let Err(error) = server.in_time(PATIENCE, sink.ping::<Value>()).await {
                    return error;
                }
            }
        };
        Ok(Subscription { messages, failure: Box::pin(failure) })
    }
}

impl Subscription {
    /// The next message. Nothing is lost if this is dropped before. What has come waits without a bound: who asks takes
    /// all of it before anything else.
    pub async fn next(&mut self) -> Result<Vec<u8>, BusError> {
        let next = async {
            tokio::select! {
                biased;
                message = self.messages.next() => match message {
                    Some(message) => Ok(message.get_payload_bytes().to_vec()),
                    None => Err(BusError::lost()),
                },
                error = &mut self.failure => Err(error),
            }
        };
        // With the budget of a task, whoever publishes much could make more wait than is taken in one turn.
        tokio::task::unconstrained(next).await
    }
}
