//! Spans of distributed traces (OpenTelemetry), and which of them are recorded.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Most links of one span.
pub const MAX_LINKS: usize = 128;

/// What a W3C `traceparent` says: a span, its trace, and whether it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// Not zero.
    pub trace: u128,
    /// Not zero.
    pub span: u64,
    pub is_sampled: bool,
}

impl TraceContext {
    /// Reads the `traceparent` of an event, which is well formed. Parts of later versions are left out.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |range| text.get(range).filter(|part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let trace = u128::from_str_radix(hex(3..35)?, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(hex(36..52)?, 16).ok().filter(|span| *span != 0)?;
        let flags = u8::from_str_radix(hex(53..55)?, 16).ok()?;
        Some(Self { trace, span, is_sampled: flags & 1 == 1 })
    }
}

/// The `traceparent` of version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, span, is_sampled } = self;
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(*is_sampled))
    }
}

/// Random numbers that name a span and, if it is the first of one, its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanIds {
    pub trace: u128,
    pub span: u64,
}

/// Which traces are recorded, by the names of `OTEL_TRACES_SAMPLER`. Those that are based on the parent do as it says,
/// and decide on traces that begin here only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    AlwaysOn,
    AlwaysOff,
    #[serde(rename = "traceidratio")]
    Ratio,
    #[serde(rename = "parentbased_always_on")]
    ParentBasedAlwaysOn,
    #[serde(rename = "parentbased_always_off")]
    ParentBasedAlwaysOff,
    #[serde(rename = "parentbased_traceidratio")]
    ParentBasedRatio,
}

/// A sampler with its share of traces, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    pub sampler: Sampler,
    pub ratio: f64,
}

impl Sampling {
    /// The context of a new span: a child of `parent`, or the first of a trace.
    pub fn begin(self, parent: Option<TraceContext>, ids: SpanIds) -> TraceContext {
        let trace = parent.map_or(ids.trace.max(1), |parent| parent.trace);
        TraceContext { trace, span: ids.span.max(1), is_sampled: self.takes(parent, trace) }
    }

    fn takes(self, parent: Option<TraceContext>, trace: u128) -> bool {
        match (self.sampler, parent) {
            (Sampler::AlwaysOn, _) | (Sampler::ParentBasedAlwaysOn, None) => true,
            (Sampler::AlwaysOff, _) | (Sampler::ParentBasedAlwaysOff, None) => false,
            (Sampler::Ratio, _) | (Sampler::ParentBasedRatio, None) => is_within(self.ratio, trace),
            (
                Sampler::ParentBasedAlwaysOn | Sampler::ParentBasedAlwaysOff | Sampler::ParentBasedRatio,
                Some(parent),
            ) => parent.is_sampled,
        }
    }
}

/// Whether a trace is in the share: the last 56 bits of its id are random, and the same for all who decide on it.
fn is_within(ratio: f64, trace: u128) -> bool {
    const BITS: u32 = 56;
    let random = (trace & ((1 << BITS) - 1)) as f64;
    // The greatest ids are rounded up to the bound.
    ratio >= 1.0 || random < ratio * 2f64.powi(BITS as i32)
}

/// Which part a span has in what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    Internal,
    Server,
    Client,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    Text(String),
    Number(i64),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for AttributeValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// A span that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub context: TraceContext,
    /// The parent's id.
    pub parent: Option<u64>,
    pub name: String,
    pub kind: SpanKind,
    pub begin: SystemTime,
    pub took: Duration,
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// Other spans that it has to do with; at most [`MAX_LINKS`].
    pub links: Vec<TraceContext>,
    /// How many links there would be beside those.
    pub dropped_links: usize,
    /// It has failed.
    pub is_error: bool,
}

impl Span {
    /// A span without attributes that ended at `end`.
    pub fn ended(
        name: impl Into<String>,
        kind: SpanKind,
        (context, parent): (TraceContext, Option<TraceContext>),
        (end, took): (SystemTime, Duration),
    ) -> Self {
        Self {
            context,
            parent: parent.map(|parent| parent.span),
            name: name.into(),
            kind,
            begin: end.checked_sub(took).unwrap_or(end),
            took,
            attributes: Vec::new(),
            links: Vec::new(),
            dropped_links: 0,
            is_error: false,
        }
    }

    /// Adds an attribute.
    pub fn with(mut self, key: &'static str, value: impl Into<AttributeValue>) -> Self {
        self.attributes.push((key, value.into()));
        self
    }

    /// Adds what every span of a publish says.
    #[must_use]
    pub fn of_publish(self) -> Self {
        self.with("messaging.system", "event_handler")
            .with("messaging.operation.type", "send")
            .with("messaging.operation.name", "publish")
    }
}

/// The recorded contexts among those of a group, each once, in order; and how many there are beyond [`MAX_LINKS`].
pub fn links(contexts: impl Iterator<Item = TraceContext>) -> (Vec<TraceContext>, usize) {
    let (mut seen, mut links) = (std::collections::HashSet::new(), Vec::new());
    for context in contexts.filter(|context| context.is_sampled) {
        if seen.insert(context) && links.len() < MAX_LINKS {
            links.push(context);
        }
    }
    let dropped = seen.len() - links.len();
    (links, dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: TraceContext = TraceContext { trace: 0xab, span: 0xcd, is_sampled: true };
    const IDS: SpanIds = SpanIds { trace: 1 << 55, span: 7 };

    fn begin(sampler: Sampler, ratio: f64, parent: Option<TraceContext>) -> TraceContext {
        Sampling { sampler, ratio }.begin(parent, IDS)
    }

    #[test]
    fn contexts_are_read_and_written() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceContext::parse(text).map(|context| context.to_string()).as_deref(), Some(text));
        let later = TraceContext::parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02-more");
        assert_eq!(later.map(|context| context.is_sampled), Some(false));
        let zeros = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        for bad in
            ["", "00-1", zeros, "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "ä".repeat(30).as_str()]
        {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_child_is_of_its_parents_trace_and_a_root_of_a_new_one() {
        let child = begin(Sampler::ParentBasedAlwaysOn, 1.0, Some(PARENT));
        assert_eq!(child, TraceContext { trace: 0xab, span: 7, is_sampled: true });
        let zeros = Sampling { sampler: Sampler::AlwaysOn, ratio: 1.0 }.begin(None, SpanIds { trace: 0, span: 0 });
        assert_eq!(zeros, TraceContext { trace: 1, span: 1, is_sampled: true });
    }

    #[test]
    fn samplers_decide_by_parent_or_share() {
        use Sampler::{AlwaysOff, AlwaysOn, ParentBasedAlwaysOff, ParentBasedAlwaysOn, ParentBasedRatio, Ratio};
        let unsampled = Some(TraceContext { is_sampled: false, ..PARENT });
        let decided =
            |sampler, ratio| [None, Some(PARENT), unsampled].map(|parent| begin(sampler, ratio, parent).is_sampled);
        assert_eq!(decided(AlwaysOn, 0.0), [true, true, true]);
        assert_eq!(decided(AlwaysOff, 1.0), [false, false, false]);
        assert_eq!(decided(ParentBasedAlwaysOn, 0.0), [true, true, false]);
        assert_eq!(decided(ParentBasedAlwaysOff, 1.0), [false, true, false]);
        // The id of the root is in the middle, that of the parent at the lower end.
        assert_eq!(decided(Ratio, 0.4), [false, true, true]);
        assert_eq!(decided(Ratio, 0.6), [true, true, true]);
        assert_eq!(decided(Ratio, 0.0), [false, false, false]);
        assert_eq!(decided(ParentBasedRatio, 0.4), [false, true, false]);
        assert!(is_within(1.0, u128::MAX));
    }

    #[test]
    fn links_are_recorded_spans_each_once_up_to_a_bound() {
        let of = |span| TraceContext { span, ..PARENT };
        let unsampled = TraceContext { is_sampled: false, ..PARENT };
        assert_eq!(links([of(1), unsampled, of(2), of(1)].into_iter()), (vec![of(1), of(2)], 0));
        let (linked, dropped) = links((1..=200).map(of));
        assert_eq!((linked.len(), dropped), (MAX_LINKS, 200 - MAX_LINKS));
    }
}
