//! Rows for people: columns as wide as they must be.

use std::collections::HashMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::event_line::one_line;
use super::{Failure, output};

/// Prints a heading and rows, two spaces between columns.
pub fn print<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Result<(), Failure> {
    let width = |at: usize| {
        let longest = rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        longest.max(heading[at].chars().count())
    };
    let widths: [usize; N] = std::array::from_fn(width);
    output::print(line(&heading, &widths))?;
    rows.iter().try_for_each(|row| output::print(line(&row.each_ref().map(String::as_str), &widths)))
}

/// Prints objects: for programs one a line, as it is; for people a row of those members, under their headings.
pub fn list<const N: usize>(
    objects: &[Box<RawValue>],
    as_json: bool,
    nothing: &str,
    columns: [(&str, &str); N],
) -> Result<(), Failure> {
    if as_json {
        return objects.iter().try_for_each(|object| output::print(one_line(object.get())));
    }
    if objects.is_empty() {
        output::say(format_args!("event-handler: {nothing}"));
        return Ok(());
    }
    let rows: Vec<_> = objects.iter().map(|object| row(object, columns.map(|(_, member)| member))).collect();
    print(columns.map(|(heading, _)| heading), &rows)
}

/// These members of an object as cells.
fn row<const N: usize>(object: &RawValue, columns: [&str; N]) -> [String; N] {
    let members: HashMap<String, &RawValue> = serde_json::from_str(object.get()).unwrap_or_default();
    // A number may be too great for any type: it is shown as it is.
    let shown = |json: &str| serde_json::from_str(json).map_or_else(|_| one_line(json), |value| cell(&value));
    columns.map(|column| members.get(column).map_or_else(|| cell(&Value::Null), |value| shown(value.get())))
}

/// A JSON value as a cell: nothing is `-`, and control characters do not command a terminal.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn line<const N: usize>(cells: &[&str; N], widths: &[usize; N]) -> String {
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
    padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_of_any_size_is_a_cell() {
        let object: Box<RawValue> = serde_json::from_str(r#"{"a":1e400,"b":"x","c":[1]}"#).expect("JSON");
        assert_eq!(row(&object, ["a", "b", "c", "d"]), ["1e400", "x", "1", "-"]);
    }

    #[test]
    fn cells_are_padded_and_harmless() {
        assert_eq!(line(&["a", "bc", ""], &[3, 2, 4]), "a    bc");
        assert_eq!([json!(null), json!(1.5), json!("x\u{1b}[2J")].map(|value| cell(&value)), ["-", "1.5", "x [2J"]);
    }
}
