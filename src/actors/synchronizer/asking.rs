//! What a service is asked in a check, and what the store says to the answers.

use std::time::Duration;

use bytes::Bytes;

use super::keeping::{Hindrance, Keeping, now};
use crate::actors::client::messages::{Answer, BodyEnd, Content, Method, NotSent, Request, ask};
use crate::actors::clock;
use crate::domain::priority::Lane;
use crate::domain::sync::{Asked, CheckNeed, TypeSync};
use crate::protocol::sync::{MAX_ANSWER_BYTES, bucket_path, digest_path, their_bucket, their_digest};
use crate::storage::{AsOf, DigestQuery, StoreError, SyncWith};

/// How long a question may wait to be sent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Entities of one page.
const PAGE: usize = 256;

/// Why there is nothing that can be compared.
enum NoAnswer {
    /// The service has answered something else, or not at all.
    Failed(String),
    /// It was not asked.
    NotAsked(String),
    Hindered(Hindrance),
}

impl From<StoreError> for NoAnswer {
    fn from(_: StoreError) -> Self {
        Self::Hindered(Hindrance::Later)
    }
}

impl Keeping {
    /// Gets what a check needs.
    pub(super) async fn compare(&self, with: &SyncWith, sync: &mut TypeSync, need: CheckNeed) -> Result<(), Hindrance> {
        let compared = match need {
            CheckNeed::Digest { buckets } => self.digest(with, sync, buckets).await,
            CheckNeed::Bucket { bucket, buckets } => self.bucket(with, sync, bucket, buckets).await,
            CheckNeed::Page { after } => {
                let page = self.parts.reader.sync_page(with.clone(), after, PAGE).await;
                let (page, has_more) = page.map_err(|_| Hindrance::Later)?;
                sync.page(page, has_more, now());
                Ok(())
            }
            CheckNeed::Wait(_) | CheckNeed::Done => Ok(()),
        };
        match compared {
            Ok(()) => {}
            Err(NoAnswer::Failed(reason)) => sync.failed(reason, now()),
            Err(NoAnswer::NotAsked(reason)) => sync.not_asked(reason, now()),
            Err(NoAnswer::Hindered(hindrance)) => return Err(hindrance),
        }
        Ok(())
    }

    async fn digest(&self, with: &SyncWith, sync: &mut TypeSync, buckets: u32) -> Result<(), NoAnswer> {
        let asked = self.asked().await?;
        let body = self.question(digest_path(self.path(), &with.kind, buckets)).await?;
        let theirs = their_digest(&body, &with.kind, buckets);
        let theirs = theirs.map_err(|reason| NoAnswer::Failed(format!("the digest is wrong: {reason}")))?;
        let query = DigestQuery { kind: with.kind.clone(), as_of: None, buckets, max_undo: 0 };
        match self.parts.reader.digest(query).await? {
            AsOf::At(last, ours) => sync.digest(asked, theirs, &ours, last, now()),
            AsOf::Beyond(_) | AsOf::Trimmed(_) => return Err(NoAnswer::Hindered(Hindrance::Later)),
        }
        Ok(())
    }

    async fn bucket(&self, with: &SyncWith, sync: &mut TypeSync, bucket: u32, buckets: u32) -> Result<(), NoAnswer> {
        let asked = self.asked().await?;
        let body = self.question(bucket_path(self.path(), &with.kind, bucket, buckets)).await?;
        let theirs = their_bucket(&body, bucket, buckets);
        let theirs = theirs.map_err(|reason| NoAnswer::Failed(format!("bucket {bucket} is wrong: {reason}")))?;
        let compared = self.parts.reader.sync_bucket(with.clone(), (bucket, buckets), theirs).await?;
        sync.bucket(asked, compared, now());
        Ok(())
    }

    fn path(&self) -> &str {
        self.service.config.sync.as_ref().map_or("", |sync| &sync.path)
    }

    /// The present moment. What is answered to a later question has all that was acknowledged before it.
    async fn asked(&self) -> Result<Asked, NoAnswer> {
        let last = self.parts.reader.bounds().await?.last;
        Ok(Asked { at: clock::now(), last })
    }

    async fn question(&self, path: String) -> Result<Bytes, NoAnswer> {
        let request = Request {
            method: Method::Get,
            path: Some(path),
            headers: Vec::new(),
            body: Bytes::new(),
            id: format!("sync_{:016x}", rand::random::<u64>()),
            traceparent: None,
            key: None,
            lane: Lane::Low,
            patience: PATIENCE,
            max_answer_bytes: MAX_ANSWER_BYTES,
            is_retried: true,
        };
        match ask(&self.service.client, request).await {
            Answer::Answered { status: 200..=299, content: Content { body, end }, .. } => match end {
                BodyEnd::Whole => Ok(body),
                BodyEnd::TooLong => {
                    Err(NoAnswer::Failed(format!("the answer is longer than {MAX_ANSWER_BYTES} bytes")))
                }
                BodyEnd::BrokenOff => Err(NoAnswer::Failed("the answer breaks off".to_owned())),
            },
            Answer::Answered { status, .. } => Err(NoAnswer::Failed(format!("the service answered {status}"))),
            Answer::Failed { kind, message, .. } => Err(NoAnswer::Failed(format!("{kind}: {message}"))),
            Answer::NotSent(why) => Err(match not_sent(why) {
                Ok(reason) => NoAnswer::NotAsked(reason.to_owned()),
                Err(hindrance) => NoAnswer::Hindered(hindrance),
            }),
        }
    }
}

/// What it means that something was not sent: the service takes nothing, or this node does not send it.
pub(super) fn not_sent(why: NotSent) -> Result<&'static str, Hindrance> {
    match why {
        NotSent::OutOfTime => Ok("the service takes nothing: its breaker is open, it is paused, or has too much to do"),
        NotSent::TooLarge => Ok("the request is longer than the service accepts"),
        NotSent::Full | NotSent::NotHere | NotSent::Ended => Err(Hindrance::Later),
    }
}
