//! What the subscriber of a session may do, and how often.

use std::sync::Arc;

use actix::prelude::{ActorContext as _, Context};

use super::Session;
use crate::access::AccessControl;
use crate::access::limits::{Limits, rate_limited};
use crate::actors::clock::{now, steady};
use crate::domain::event::{Append, Timestamp};
use crate::domain::rate::{RateLimit, TokenBucket};
use crate::protocol::close::CloseReason;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::subscription::RequestId;
use crate::protocol::{frame, permit};

/// Refused frames before the connection is closed: as many at once, and one more each second.
const PATIENCE: RateLimit = RateLimit::per_second(1, 100);

/// The rights and limits of one subscriber.
pub struct SessionAccess {
    control: Arc<AccessControl>,
    limits: Arc<Limits>,
    frames: Option<FrameRate>,
}

struct FrameRate {
    allowed: TokenBucket,
    patience: TokenBucket,
}

impl SessionAccess {
    pub fn new(control: Arc<AccessControl>, limits: Arc<Limits>) -> Self {
        let frames = limits.frames.map(|limit| {
            let now = steady();
            FrameRate { allowed: TokenBucket::new(limit, now), patience: TokenBucket::new(PATIENCE, now) }
        });
        Self { control, limits, frames }
    }
}

impl Session {
    /// Whether a frame is to be read. A frame beyond the limit is refused; if too many are, the connection is closed.
    pub(super) fn admits_frame(&mut self, ctx: &mut Context<Self>) -> bool {
        let Some(rate) = &mut self.parts.access.frames else { return true };
        let now = steady();
        let Err(next) = rate.allowed.try_take(now) else { return true };
        if rate.patience.try_take(now).is_ok() {
            self.refuse(None, &rate_limited("frames", next, now));
            return false;
        }
        log::info!(session = self.attachment.place.session, peer = self.connection().peer_name().as_str(); "session floods with frames, closing");
        self.close(CloseReason::Policy);
        ctx.stop();
        false
    }

    /// Checks that the subscriber may publish these events now.
    pub(super) fn permit_publish(&self, append: &Append) -> Result<(), ApiError> {
        let auth = &self.connection().auth;
        append.events.iter().try_for_each(|event| permit::publish(&auth.caller(), &event.name))?;
        if !self.parts.access.limits.limits_publishes() {
            return Ok(());
        }
        self.parts.access.limits.publish(auth.rate_key, append.events.len(), steady())
    }

    /// The subscriber continues with another token.
    pub(super) fn renew(&mut self, id: Option<&RequestId>, token: &str) {
        match self.renewed(token, now()) {
            Ok(expires_at) => self.say(&frame::authenticated(id, expires_at)),
            Err(error) => self.refuse(id, &error),
        }
    }

    fn renewed(&self, token: &str, now: Timestamp) -> Result<Option<Timestamp>, ApiError> {
        let auth = &self.connection().auth;
        let next = self.parts.access.control.caller(Some(token), now)?;
        let (Some(before), Some(after)) = (auth.caller().principal().cloned(), next.principal().cloned()) else {
            return Ok(None);
        };
        if !before.may_go_on_as(&after) {
            let advice = "the token must be for the same name, and for subscribing to no less; connect anew with it";
            return Err(ApiError::new(ErrorCode::Forbidden, advice));
        }
        auth.go_on_as(next);
        Ok(after.expires_at)
    }
}
