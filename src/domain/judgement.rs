//! What a [catalogue](super::catalogue) says of a request.

use super::pattern::Pattern;
use super::schema::Violation;

/// Which catalogue it is: the id of the event of the newest change; 0 before the first.
pub type Generation = i64;

/// What the catalogue of a generation says of a request. Nothing if all is well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    pub generation: Generation,
    /// By the place of the event in the request.
    pub findings: Box<[(usize, Finding)]>,
}

/// What is the matter with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The type that counts; none if there is none.
    pub of: Option<(Pattern, u32)>,
    /// Whether the event is refused, and not only counted.
    pub refuses: bool,
    pub fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Violations(Vec<Violation>),
    DuplicateKey { path: String, key: String },
    UnknownType,
}

impl Finding {
    /// How many violations it counts for.
    pub fn count(&self) -> u32 {
        match &self.fault {
            Fault::Violations(violations) => violations.len().max(1) as u32,
            Fault::DuplicateKey { .. } | Fault::UnknownType => 1,
        }
    }
}

impl Judgement {
    /// Whether something is refused.
    pub fn refuses(&self) -> bool {
        self.findings.iter().any(|(_, finding)| finding.refuses)
    }
}
