//! One text for all spellings of a filter: whatever is compiled to the same is the same filter.

use std::fmt::Write as _;

use super::condition::{Comparison, Condition, Fields, Test};
use super::scan::Scalar;

/// The text of `fields`. It is compared, and never read: neither the order of members and alternatives counts, nor how
/// often an alternative is given.
pub(super) fn canonical(fields: &Fields) -> Box<str> {
    of_fields(fields).into()
}

fn of_fields(fields: &Fields) -> String {
    let of_field = |field: &super::condition::Field| {
        let test = match &field.test {
            Test::OneOf(conditions) => set('[', conditions.iter().map(of_condition).collect()),
            Test::Nested(fields) => of_fields(fields),
        };
        format!("{:?}:{test}", field.name)
    };
    let mut members: Vec<String> = fields.fields.iter().map(of_field).collect();
    if !fields.any_of.is_empty() {
        members.push(format!("or:{}", set('(', fields.any_of.iter().map(of_fields).collect())));
    }
    set('{', members)
}

fn of_condition(condition: &Condition) -> String {
    match condition {
        Condition::Equals(value) => of_scalar(value),
        Condition::EqualsIgnoreCase(text) => format!("like {text:?}"),
        Condition::Prefix(text) => format!("prefix {text:?}"),
        Condition::Suffix(text) => format!("suffix {text:?}"),
        Condition::Numeric(bounds) => match &bounds[..] {
            [(Comparison::Equal, number)] => of_scalar(&Scalar::Number(number.clone())),
            bounds => set('<', bounds.iter().map(|(is, number)| format!("{is:?} {number:?}")).collect()),
        },
        Condition::AnythingBut(refused) => format!("not {}", set('[', refused.iter().map(of_condition).collect())),
        Condition::Exists(wanted) => format!("exists {wanted}"),
    }
}

fn of_scalar(value: &Scalar<'_>) -> String {
    format!("{value:?}")
}

/// In one order, each once.
fn set(opening: char, mut members: Vec<String>) -> String {
    members.sort_unstable();
    members.dedup();
    let mut text = String::from(opening);
    for member in &members {
        // Their lengths, so that no text can pretend to be two.
        let _ = write!(text, "{}={member};", member.len());
    }
    text
}
