//! One of a service's routes: `"order.>"`, or `{ event = "payment.*", filter = { amount = [{ numeric = [">", 100] }]
//! } }`.

use std::fmt::Display;

use serde::de::Error;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::{Table, Value};

use crate::domain::filter::Filter;
use crate::domain::pattern::Pattern;
use crate::domain::routes::Selector;

/// A route as it is written.
#[derive(Debug, Clone)]
pub(super) struct RouteKey(pub Selector);

impl<'de> Deserialize<'de> for RouteKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let route = match Value::deserialize(from)? {
            Value::String(text) => pattern(text).map(Selector::all_of),
            Value::Table(table) => selector(table),
            _ => Err("must be a pattern, or a section with event and filter".to_owned()),
        };
        route.map(Self).map_err(D::Error::custom)
    }
}

/// Filters are shown as JSON, which is exact.
impl Serialize for RouteKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(Selector { event, filter }) = self;
        let Some(filter) = filter else { return serializer.serialize_str(event.as_str()) };
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("event", event.as_str())?;
        map.serialize_entry("filter", filter.as_json())?;
        map.end()
    }
}

fn pattern(text: String) -> Result<Pattern, String> {
    let refuse = |reason: &dyn Display| format!("{text:?}: {reason}");
    Pattern::parse(text.clone()).map_err(|reason| refuse(&reason))
}

fn selector(mut table: Table) -> Result<Selector, String> {
    let event = match table.remove("event") {
        Some(Value::String(text)) => pattern(text).map_err(|reason| format!("event: {reason}"))?,
        Some(_) => return Err("event: must be text".to_owned()),
        None => return Err("event: is required".to_owned()),
    };
    let filter = match table.remove("filter") {
        None => None,
        Some(Value::String(json)) => Some(json),
        Some(value) => Some(json(&value, "filter")?.to_string()),
    };
    if let Some(other) = table.keys().next() {
        return Err(format!("{other}: unknown key (known: event, filter)"));
    }
    let filter = filter.map(|json| Filter::parse(&json)).transpose().map_err(|error| error.to_string())?;
    Ok(Selector { event, filter })
}

/// The JSON that is meant by `value`, found at `path`.
pub(super) fn json(value: &Value, path: &str) -> Result<serde_json::Value, String> {
    Ok(match value {
        Value::String(text) => text.as_str().into(),
        Value::Integer(number) => (*number).into(),
        Value::Float(number) if number.is_finite() => (*number).into(),
        Value::Float(_) => return Err(format!("{path}: must be a finite number")),
        Value::Boolean(value) => (*value).into(),
        Value::Datetime(time) => time.to_string().into(),
        Value::Array(items) => {
            let item = |(at, item)| json(item, &format!("{path}[{at}]"));
            items.iter().enumerate().map(item).collect::<Result<_, _>>()?
        }
        Value::Table(table) => {
            let member = |(name, value)| Ok((String::clone(name), json(value, &format!("{path}.{name}"))?));
            table.iter().map(member).collect::<Result<_, String>>()?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(toml: &str) -> Result<Vec<RouteKey>, String> {
        let table: Table = toml.parse().expect("TOML");
        let routes = serde_path_to_error::deserialize::<_, Vec<RouteKey>>(table["routes"].clone());
        routes.map_err(|error| format!("{}: {}", error.path(), error.inner().message()))
    }

    #[test]
    fn a_route_is_a_pattern_or_has_a_filter_too() {
        let toml = r#"routes = ["order.>", { event = "payment.*", filter = { amount = [{ numeric = [">", 100] }], a = { b = 1.5 } } },
            { event = "x" }, { event = "y", filter = '{"n": [null, 1e400]}' }]"#;
        let routes = routes(toml).expect("routes");
        let shown: Vec<_> = routes
            .iter()
            .map(|RouteKey(route)| (route.event.as_str(), route.filter.as_ref().map(Filter::as_json)))
            .collect();
        assert_eq!(
            shown,
            [
                ("order.>", None),
                ("payment.*", Some(r#"{"a":{"b":1.5},"amount":[{"numeric":[">",100]}]}"#)),
                ("x", None),
                ("y", Some(r#"{"n":[null,1e400]}"#)),
            ]
        );
        let written = Value::try_from(&routes).expect("TOML").to_string();
        let again = self::routes(&format!("routes = {written}")).expect("routes");
        assert!(again.iter().map(|RouteKey(route)| route).eq(routes.iter().map(|RouteKey(route)| route)), "{written}");
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (route, reason) in [
            (
                r#"{ event = "a", filter = { x = [{ numeric = [">", "1"] }] } }"#,
                "filter.x[0].numeric[1]: must be a number",
            ),
            (r#"{ event = "a", filter = { x = [nan] } }"#, "filter.x[0]: must be a finite number"),
            (r#"{ event = "a", filter = "x" }"#, "filter: not valid JSON: expected value at line 1 column 1"),
            (
                r#"{ event = "a*" }"#,
                r#"event: "a*": '*' must stand alone for one whole segment, or behind ':' for the rest of it"#,
            ),
            (r#"{ filter = { x = 1 } }"#, "event: is required"),
            (r#"{ event = "a", filters = 1 }"#, "filters: unknown key (known: event, filter)"),
            ("1", "must be a pattern, or a section with event and filter"),
        ] {
            let told = routes(&format!("routes = [\"b\", {route}]")).expect_err(route);
            assert_eq!(told, format!("[1]: {reason}"));
        }
    }
}
