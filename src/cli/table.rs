//! Rows for people: columns as wide as they must be.

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

/// A JSON value as a cell: nothing is `-`, and control characters do not command a terminal.
pub fn cell(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
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
    fn cells_are_padded_and_harmless() {
        assert_eq!(line(&["a", "bc", ""], &[3, 2, 4]), "a    bc");
        assert_eq!([json!(null), json!(1.5), json!("x\u{1b}[2J")].map(|value| cell(&value)), ["-", "1.5", "x [2J"]);
    }
}
