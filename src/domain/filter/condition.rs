//! What a filter asks, and whether a document has it.

use super::document::{Object, Paths, Value, Values};
use super::number::Number;
use super::scan::Scalar;

/// What one object has to fulfil: every field, and one of the alternatives.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub fields: Vec<Field>,
    /// Any of these (`$or`); none if there is no such condition.
    pub any_of: Vec<Fields>,
}

/// What one field has to fulfil.
#[derive(Debug)]
pub(super) struct Field {
    pub name: Box<str>,
    pub test: Test,
}

#[derive(Debug)]
pub(super) enum Test {
    /// Any of these, for any of the field's values.
    OneOf(Vec<Condition>),
    /// One of the field's values has to be an object that fulfils them all.
    Nested(Fields),
}

#[derive(Debug)]
pub(super) enum Condition {
    Equals(Scalar<'static>),
    /// In lower case.
    EqualsIgnoreCase(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    /// All of these.
    Numeric(Vec<(Comparison, Number<'static>)>),
    /// None of these.
    AnythingBut(Vec<Condition>),
    /// Whether the field is there, whatever its value.
    Exists(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Less,
    AtMost,
    Equal,
    AtLeast,
    Greater,
}

impl Comparison {
    pub const ALL: [(&str, Self); 5] =
        [("<", Self::Less), ("<=", Self::AtMost), ("=", Self::Equal), (">=", Self::AtLeast), (">", Self::Greater)];

    fn holds(self, value: &Number<'_>, bound: &Number<'static>) -> bool {
        let order = value.cmp(bound);
        match self {
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::AtLeast => order.is_ge(),
            Self::Greater => order.is_gt(),
        }
    }
}

impl Fields {
    /// Whether one of `values` fulfils it. Whatever is no object counts as one without fields.
    pub fn pass_any(&self, values: &[Value<'_>]) -> bool {
        if values.is_empty() { self.pass(None) } else { values.iter().any(|value| self.pass(value.object())) }
    }

    fn pass(&self, object: Option<&Object<'_>>) -> bool {
        let of = |field: &Field| field.passes(object.and_then(|object| object.get(&field.name)));
        self.fields.iter().all(of) && (self.any_of.is_empty() || self.any_of.iter().any(|fields| fields.pass(object)))
    }

    pub fn conditions(&self) -> usize {
        let of_field = |field: &Field| match &field.test {
            Test::OneOf(conditions) => conditions.len(),
            Test::Nested(fields) => fields.conditions(),
        };
        self.fields.iter().map(of_field).chain(self.any_of.iter().map(Self::conditions)).sum()
    }

    /// The first condition that `values` do not fulfil: where it is, and why.
    pub fn first_failure(&self, values: &[Value<'_>], path: &str) -> Option<(String, &'static str)> {
        if self.pass_any(values) {
            return None;
        }
        match values {
            [] => self.failure(None, path),
            [value] => self.failure(value.object(), path),
            _ => Some((path.to_owned(), "no element has all that is asked for")),
        }
    }

    fn failure(&self, object: Option<&Object<'_>>, path: &str) -> Option<(String, &'static str)> {
        for field in &self.fields {
            let values = object.and_then(|object| object.get(&field.name));
            if field.passes(values) {
                continue;
            }
            let path = step(path, &field.name);
            return match (&field.test, values) {
                (Test::Nested(fields), values) => fields.first_failure(values.map_or(&[], |v| v), &path),
                (Test::OneOf(_), None) => Some((path, "is missing")),
                (Test::OneOf(asked), Some(_)) if asked.iter().all(|c| matches!(c, Condition::Exists(false))) => {
                    Some((path, "is there"))
                }
                (Test::OneOf(_), Some(_)) => Some((path, "has no value that is asked for")),
            };
        }
        Some((step(path, super::OR), "none of the alternatives holds"))
    }

    /// Calls `found` with the path of every field that is looked at.
    pub fn for_each_path<'a>(&'a self, path: &mut Vec<&'a str>, found: &mut impl FnMut(&[&'a str])) {
        for field in &self.fields {
            path.push(&field.name);
            match &field.test {
                Test::OneOf(_) => found(path),
                Test::Nested(fields) => {
                    found(path);
                    fields.for_each_path(path, found);
                }
            }
            path.pop();
        }
        for fields in &self.any_of {
            fields.for_each_path(path, found);
        }
    }

    /// All that is looked at.
    pub fn paths(&self) -> Paths {
        let mut paths = Paths::default();
        self.for_each_path(&mut Vec::new(), &mut |path| paths.add(path));
        paths
    }
}

impl Field {
    fn passes(&self, values: Option<&Values<'_>>) -> bool {
        match &self.test {
            Test::OneOf(conditions) => conditions.iter().any(|condition| condition.holds_for(values)),
            Test::Nested(fields) => fields.pass_any(values.map_or(&[], |values| values)),
        }
    }
}

impl Condition {
    fn holds_for(&self, values: Option<&Values<'_>>) -> bool {
        if let Self::Exists(wanted) = self {
            return values.is_some() == *wanted;
        }
        let holds = |value: &Value<'_>| matches!(value, Value::Scalar(scalar) if self.holds(scalar));
        values.is_some_and(|values| values.iter().any(holds))
    }

    fn holds(&self, value: &Scalar<'_>) -> bool {
        match (self, value) {
            (Self::Equals(wanted), value) => wanted == value,
            (Self::EqualsIgnoreCase(wanted), Scalar::Text(text)) => is_lower_case_of(wanted, text),
            (Self::Prefix(prefix), Scalar::Text(text)) => text.starts_with(&**prefix),
            (Self::Suffix(suffix), Scalar::Text(text)) => text.ends_with(&**suffix),
            (Self::Numeric(bounds), Scalar::Number(number)) => bounds.iter().all(|(is, bound)| is.holds(number, bound)),
            (Self::AnythingBut(refused), value) => !refused.iter().any(|condition| condition.holds(value)),
            (Self::Exists(wanted), _) => *wanted,
            (Self::EqualsIgnoreCase(_) | Self::Prefix(_) | Self::Suffix(_) | Self::Numeric(_), _) => false,
        }
    }
}

fn is_lower_case_of(lower: &str, text: &str) -> bool {
    text.chars().flat_map(char::to_lowercase).eq(lower.chars())
}

/// `path` with one more name, spelled so that it can be read as one name.
pub(super) fn step(path: &str, name: &str) -> String {
    let is_plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '$'));
    if is_plain { format!("{path}.{name}") } else { format!("{path}[{name:?}]") }
}
