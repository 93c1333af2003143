//! Sagas: operations over several services that end as a whole, whatever fails on the way.
//!
//! A [definition] says what is done step by step, and how each step is undone. An [instance] is one run of it: it
//! begins with an event, and its [journal] says all that has happened. The [machine] decides what comes next.

mod concern;
mod correlation;
mod crowd;
mod definition;
mod endless;
mod id;
mod instance;
mod journal;
mod json;
mod machine;
mod template;
#[cfg(test)]
mod tests;

/// The name of the follower of the log that runs sagas, and of its position.
pub const FOLLOWER: &str = "sagas";

pub use self::concern::{Address, Concerns};
pub use self::correlation::Correlation;
pub use self::crowd::{Crowd, Happened, Member, Replied, Triggered};
pub use self::definition::{
    Call, Definition, DefinitionError, MAX_STEPS, Match, OnDuplicate, OnFailure, OnTrouble, Probe, Reply, Retry, Step,
    StepIndex, Trigger, Undo, Work,
};
pub use self::endless::endless;
pub use self::id::SagaIds;
pub use self::instance::{Instance, Origin, Phase, State, StepRecord, StepState};
pub use self::journal::{
    AT_COMMIT, CallReport, Decision, Entry, Fact, InstanceEnd, Operation, Request, StepEnd, WaitsFor,
};
pub use self::json::{Json, Pointer};
pub use self::machine::{
    Deed, Effect, Input, Outcome, ProbeAnswer, Told, Unfit, Verb, decide, decide_without, verdict_of,
};
