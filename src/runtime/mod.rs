//! What every actor needs: an address that outlives restarts, a supervisor that learns of its end, and a report.
//!
//! - [`address`]: how actors, and the edges, reach an actor.
//! - [`child`]: a supervised actor as its supervisor sees it, whatever it does.
//! - [`life`]: what an actor is given for one generation of it.
//! - [`report`]: what an actor tells operators.
//! - [`stop`]: how its tasks learn that it is to end.

pub mod address;
pub mod child;
pub mod life;
pub mod report;
pub mod stop;
pub mod tasks;

/// Makes an actor one that can be [supervised](child::Supervised), and be [told](address::Address::tell) these messages.
///
/// A macro, since Rust lets nobody implement a foreign trait for all actors at once.
#[macro_export]
macro_rules! supervised {
    ($actor:ty $(, $told:ty)* $(,)?) => {
        $(impl actix::Handler<$crate::runtime::address::Queued<$told>> for $actor {
            type Result = ();

            fn handle(&mut self, queued: $crate::runtime::address::Queued<$told>, ctx: &mut Self::Context) {
                actix::Handler::handle(self, queued.take(), ctx);
            }
        })*

        #[cfg(feature = "fault-injection")]
        impl actix::Handler<$crate::runtime::child::InjectPanic> for $actor {
            type Result = ();

            fn handle(&mut self, _: $crate::runtime::child::InjectPanic, _: &mut Self::Context) {
                panic!("injected fault in {}", stringify!($actor));
            }
        }
    };
}
