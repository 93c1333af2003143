//! The section `[delivery]`: how events are delivered, by default and to one service.
//!
//! What each key means is said once, in `config/default.toml`.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::units::{
    DAY, HOUR, KIB, MIB, MINUTE, SECOND, Size, Span, between, number, optional_span, size, span, whole,
};
use crate::protocol::webhook::DeliveryFormat;

/// Most waits in `retry_delays`.
const MAX_DELAYS: usize = 100;

/// The calls from which a breaker's rates are computed: written as `"100"` calls or as a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerWindow {
    /// The newest calls.
    Calls(u32),
    /// The calls of this time.
    Time(Span),
}

/// The options of deliveries. None means unlimited, or off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryConfig {
    pub format: DeliveryFormat,
    #[serde(deserialize_with = "whole::<1, 10_000, _, _>")]
    pub concurrency: usize,
    /// Per second; 0 is unlimited.
    #[serde(deserialize_with = "number::<0, 1_000_000, _>")]
    pub rate: f64,
    /// 0 is one second's worth of `rate`.
    #[serde(deserialize_with = "whole::<0, 1_000_000, _, _>")]
    pub burst: u32,
    #[serde(deserialize_with = "span::<10, {5 * MINUTE}, _>")]
    pub connect_timeout: Span,
    #[serde(deserialize_with = "span::<10, HOUR, _>")]
    pub timeout: Span,
    #[serde(deserialize_with = "span::<0, HOUR, _>")]
    pub idle_timeout: Span,
    #[serde(deserialize_with = "span::<0, DAY, _>")]
    pub connection_max_age: Span,
    #[serde(deserialize_with = "size::<KIB, {256 * MIB}, _>")]
    pub max_body: Size,
    pub allow_private: bool,
    #[serde(deserialize_with = "span::<1, DAY, _>")]
    pub retry_base: Span,
    #[serde(deserialize_with = "span::<1, {30 * DAY}, _>")]
    pub retry_cap: Span,
    /// Instead of the doubling waits, when there are any.
    #[serde(deserialize_with = "delays")]
    pub retry_delays: Vec<Span>,
    #[serde(deserialize_with = "whole::<1, 1000, _, _>")]
    pub max_attempts: u32,
    #[serde(deserialize_with = "span::<0, {30 * DAY}, _>")]
    pub retry_after_cap: Span,
    #[serde(deserialize_with = "whole::<0, 1000, _, _>")]
    pub retry_404: u32,
    /// A share, from 0 to 1.
    #[serde(deserialize_with = "number::<0, 1, _>")]
    pub retry_budget: f64,
    /// Per second.
    #[serde(deserialize_with = "number::<0, 1_000_000, _>")]
    pub retry_budget_min: f64,
    pub breaker_window: BreakerWindow,
    #[serde(deserialize_with = "whole::<1, 10_000, _, _>")]
    pub breaker_minimum_calls: u32,
    /// Percent.
    #[serde(deserialize_with = "whole::<1, 100, _, _>")]
    pub breaker_failure_rate: u32,
    #[serde(deserialize_with = "optional_span::<1, HOUR, _>")]
    pub breaker_slow_call: Option<Span>,
    /// Percent.
    #[serde(deserialize_with = "whole::<1, 100, _, _>")]
    pub breaker_slow_rate: u32,
    /// 0 is off.
    #[serde(deserialize_with = "whole::<0, 10_000, _, _>")]
    pub breaker_consecutive: u32,
    #[serde(deserialize_with = "span::<10, DAY, _>")]
    pub breaker_open_for: Span,
    #[serde(deserialize_with = "span::<10, DAY, _>")]
    pub breaker_open_cap: Span,
    #[serde(deserialize_with = "whole::<1, 1000, _, _>")]
    pub breaker_probes: u32,
    #[serde(deserialize_with = "span::<10, HOUR, _>")]
    pub breaker_probe_timeout: Span,
    #[serde(deserialize_with = "span::<0, HOUR, _>")]
    pub breaker_slow_start: Span,
    #[serde(deserialize_with = "span::<100, DAY, _>")]
    pub priority_age: Span,
    /// Empty is none, here and in the next two.
    pub tls_ca_file: String,
    pub tls_cert_file: String,
    pub tls_key_file: String,
}

impl DeliveryConfig {
    /// Checks that no options contradict each other. The error has both options of a contradiction, first the one that
    /// should be smaller, each with what is wrong with it.
    pub(super) fn check(&self) -> Result<(), [(&'static str, String); 2]> {
        at_most(("retry_base", self.retry_base), ("retry_cap", self.retry_cap))?;
        at_most(("breaker_open_for", self.breaker_open_for), ("breaker_open_cap", self.breaker_open_cap))?;
        match self.breaker_window {
            BreakerWindow::Calls(calls) => {
                at_most(("breaker_minimum_calls", self.breaker_minimum_calls), ("breaker_window", calls))?;
            }
            BreakerWindow::Time(_) => {}
        }
        let [cert, key] = ["tls_cert_file", "tls_key_file"];
        let useless = |other: &str| format!("is of no use without {other}");
        let contradict = self.tls_cert_file.is_empty() != self.tls_key_file.is_empty();
        if contradict { Err([(cert, useless(key)), (key, useless(cert))]) } else { Ok(()) }
    }
}

fn at_most<T: PartialOrd + fmt::Display>(
    small: (&'static str, T),
    large: (&'static str, T),
) -> Result<(), [(&'static str, String); 2]> {
    if small.1 <= large.1 {
        return Ok(());
    }
    let say = |how: &str, (other, limit): (&str, &T), is: &T| format!("must be {how} {other} ({limit}), not {is}");
    Err([
        (small.0, say("at most", (large.0, &large.1), &small.1)),
        (large.0, say("at least", (small.0, &small.1), &large.1)),
    ])
}

impl fmt::Display for BreakerWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calls(calls) => calls.fmt(f),
            Self::Time(time) => time.fmt(f),
        }
    }
}

impl Serialize for BreakerWindow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BreakerWindow {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let window = match text.trim().parse::<i64>() {
            Ok(calls) => between(1, calls, 10_000).map(|calls| Self::Calls(calls as u32)),
            Err(_) => match Span::parse(&text) {
                Ok(time) => between(Span::from_millis(SECOND), time, Span::from_millis(HOUR)).map(BreakerWindow::Time),
                Err(_) => Err(format!(
                    "must be a number of calls such as \"100\" or a duration such as \"30s\", not {text:?}"
                )),
            },
        };
        window.map_err(D::Error::custom)
    }
}

fn delays<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Span>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    if texts.len() > MAX_DELAYS {
        return Err(D::Error::custom(format!("must be at most {MAX_DELAYS} durations, not {}", texts.len())));
    }
    let delay = |text: &String| between(Span::from_millis(0), Span::parse(text)?, Span::from_millis(30 * DAY));
    texts.iter().map(delay).collect::<Result<_, _>>().map_err(D::Error::custom)
}
