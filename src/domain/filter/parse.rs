//! The grammar of filters.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::condition::{Comparison, Condition, Field, Fields, Test, step};
use super::number::{MAX_MAGNITUDE, Number};
use super::scan::{Scalar, Scanner};
use super::{FilterError, MAX_CONDITIONS, MAX_DEPTH, MAX_TEXT, OR};

/// How paths begin.
pub(super) const ROOT: &str = "filter";

/// What may stand in a list, beside plain values.
const OPERATORS: [&str; 7] = ["equals", "prefix", "suffix", "equals-ignore-case", "numeric", "anything-but", "exists"];

/// Objects and lists in each other, in the text; a filter that is not too deep stays well below.
const MAX_NESTING: usize = 64;

/// A small JSON text as a tree.
enum Json<'a> {
    Scalar(Scalar<'a>),
    List(Vec<Json<'a>>),
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// The filter without white space, and what it means.
pub(super) fn parse(text: &str) -> Result<(Box<str>, Fields), FilterError> {
    let refuse = |message: String| Err(error(ROOT, message));
    if text.len() > MAX_TEXT {
        return refuse(format!("must be at most {MAX_TEXT} bytes long, not {}", text.len()));
    }
    if let Err(reason) = serde_json::from_str::<&RawValue>(text) {
        return refuse(format!("not valid JSON: {reason}"));
    }
    let Some(json) = read(&mut Scanner::new(text), MAX_NESTING) else {
        return refuse("is nested too deeply, or has a string that is not Unicode".to_owned());
    };
    let Json::Object(members) = json else {
        return refuse("must be a JSON object".to_owned());
    };
    let fields = Grammar { conditions: 0 }.fields(members, ROOT, 1)?;
    Ok((without_white_space(text), fields))
}

fn error(path: &str, message: impl Into<String>) -> FilterError {
    FilterError { path: path.to_owned(), message: message.into() }
}

fn read<'a>(scan: &mut Scanner<'a>, depth: usize) -> Option<Json<'a>> {
    let depth = depth.checked_sub(1)?;
    match scan.peek()? {
        b'{' => {
            scan.expect(b'{')?;
            let mut members = Vec::new();
            let mut ended = scan.take(b'}');
            while !ended {
                let name = scan.string()??;
                scan.expect(b':')?;
                members.push((name, read(scan, depth)?));
                ended = !scan.take(b',');
                ended.then(|| scan.take(b'}'));
            }
            Some(Json::Object(members))
        }
        b'[' => {
            scan.expect(b'[')?;
            let mut items = Vec::new();
            let mut ended = scan.take(b']');
            while !ended {
                items.push(read(scan, depth)?);
                ended = !scan.take(b',');
                ended.then(|| scan.take(b']'));
            }
            Some(Json::List(items))
        }
        _ => scan.scalar().filter(|scalar| *scalar != Scalar::BrokenText).map(Json::Scalar),
    }
}

fn without_white_space(json: &str) -> Box<str> {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |c: &char| {
        if in_string {
            in_string = escaped || *c != '"';
            escaped = !escaped && *c == '\\';
            return true;
        }
        in_string = *c == '"';
        !matches!(c, ' ' | '\t' | '\n' | '\r')
    };
    json.chars().filter(keep).collect::<String>().into()
}

struct Grammar {
    conditions: usize,
}

impl Grammar {
    fn fields(
        &mut self,
        members: Vec<(Cow<'_, str>, Json<'_>)>,
        path: &str,
        depth: usize,
    ) -> Result<Fields, FilterError> {
        if depth > MAX_DEPTH {
            return Err(error(path, format!("is deeper than {MAX_DEPTH} objects in each other")));
        }
        if members.is_empty() {
            return Err(error(path, "must name at least one field"));
        }
        let mut found = Fields::default();
        for (name, value) in members {
            let path = step(path, &name);
            let is_repeated =
                found.fields.iter().any(|field| *field.name == *name) || (name == OR && !found.any_of.is_empty());
            if is_repeated {
                return Err(error(&path, "is given twice"));
            }
            if name == OR {
                found.any_of = self.alternatives(value, &path, depth)?;
                continue;
            }
            let test = match value {
                Json::Object(members) => {
                    refuse_misplaced_operator(&members, &path)?;
                    Test::Nested(self.fields(members, &path, depth + 1)?)
                }
                Json::List(items) if items.is_empty() => {
                    return Err(error(&path, "must list at least one value or condition"));
                }
                Json::List(items) => {
                    let item = |(at, item)| self.condition(item, &format!("{path}[{at}]"));
                    Test::OneOf(items.into_iter().enumerate().map(item).collect::<Result<_, _>>()?)
                }
                Json::Scalar(value) => Test::OneOf(vec![self.equals(value, &path)?]),
            };
            found.fields.push(Field { name: name.into(), test });
        }
        Ok(found)
    }

    fn alternatives(&mut self, value: Json<'_>, path: &str, depth: usize) -> Result<Vec<Fields>, FilterError> {
        let alternatives = match value {
            Json::List(items) if !items.is_empty() => items,
            _ => return Err(error(path, "must be a list of objects, each of them written like a filter")),
        };
        let alternative = |(at, item)| {
            let path = format!("{path}[{at}]");
            match item {
                Json::Object(members) => self.fields(members, &path, depth + 1),
                Json::List(_) | Json::Scalar(_) => Err(error(&path, "must be an object, written like a filter")),
            }
        };
        alternatives.into_iter().enumerate().map(alternative).collect()
    }

    /// One item of a list.
    fn condition(&mut self, item: Json<'_>, path: &str) -> Result<Condition, FilterError> {
        let members = match item {
            Json::Scalar(value) => return self.equals(value, path),
            Json::List(_) => return Err(error(path, "must be a value or a condition, not a list")),
            Json::Object(members) => members,
        };
        let Ok([(operator, operand)]) = <[_; 1]>::try_from(members) else {
            return Err(error(path, "must have exactly one condition; several alternatives are several items"));
        };
        let path = step(path, &operator);
        match (&*operator, operand) {
            ("exists", Json::Scalar(Scalar::Bool(wanted))) => self.count(Condition::Exists(wanted), &path),
            ("exists", _) => Err(error(&path, "must be true or false")),
            ("numeric", Json::List(items)) => self.numeric(items, &path),
            ("numeric", _) => Err(error(&path, "must be a list like [\">=\", 10, \"<\", 20]")),
            ("anything-but", Json::List(items)) if items.is_empty() => {
                Err(error(&path, "must list at least one value"))
            }
            ("anything-but", Json::List(items)) => {
                let refused = items.into_iter().enumerate().map(|(at, item)| {
                    let path = format!("{path}[{at}]");
                    match item {
                        Json::Scalar(value) => self.equals(value, &path),
                        Json::List(_) | Json::Object(_) => Err(error(&path, "must be a value")),
                    }
                });
                Ok(Condition::AnythingBut(refused.collect::<Result<_, _>>()?))
            }
            ("anything-but", Json::Object(members)) => match <[_; 1]>::try_from(members) {
                Ok([(operator, operand)]) => {
                    Ok(Condition::AnythingBut(vec![self.on_value(&operator, operand, &step(&path, &operator))?]))
                }
                Err(_) => Err(error(&path, "must have exactly one condition")),
            },
            ("anything-but", Json::Scalar(value)) => Ok(Condition::AnythingBut(vec![self.equals(value, &path)?])),
            (_, operand) => self.on_value(&operator, operand, &path),
        }
    }

    /// A condition that `anything-but` can turn around.
    fn on_value(&mut self, operator: &str, operand: Json<'_>, path: &str) -> Result<Condition, FilterError> {
        let make: fn(&str) -> Condition = match operator {
            "equals" => {
                return match operand {
                    Json::Scalar(value) => self.equals(value, path),
                    Json::List(_) | Json::Object(_) => {
                        Err(error(path, "must be a string, a number, true, false or null"))
                    }
                };
            }
            "prefix" => |text| Condition::Prefix(text.into()),
            "suffix" => |text| Condition::Suffix(text.into()),
            "equals-ignore-case" => {
                |text| Condition::EqualsIgnoreCase(text.chars().flat_map(char::to_lowercase).collect())
            }
            _ => return Err(error(path, format!("is no condition here; known are {}", OPERATORS.join(", ")))),
        };
        match operand {
            Json::Scalar(Scalar::Text(text)) => self.count(make(&text), path),
            _ => Err(error(path, "must be a string")),
        }
    }

    fn numeric(&mut self, items: Vec<Json<'_>>, path: &str) -> Result<Condition, FilterError> {
        if !matches!(items.len(), 2 | 4) {
            return Err(error(path, "must be one or two comparisons, each of them a sign and a number"));
        }
        let mut bounds = Vec::new();
        let mut items = items.into_iter().enumerate();
        while let (Some((at, sign)), Some((next, bound))) = (items.next(), items.next()) {
            let known = match &sign {
                Json::Scalar(Scalar::Text(sign)) => Comparison::ALL.iter().find(|(name, _)| name == sign),
                _ => None,
            };
            let (_, comparison) = known
                .ok_or_else(|| error(&format!("{path}[{at}]"), "must be \"<\", \"<=\", \"=\", \">=\" or \">\""))?;
            let path = format!("{path}[{next}]");
            match bound {
                Json::Scalar(Scalar::Number(number)) => bounds.push((*comparison, ordinary(number, &path)?)),
                _ => return Err(error(&path, "must be a number")),
            }
        }
        self.count(Condition::Numeric(bounds), path)
    }

    fn equals(&mut self, value: Scalar<'_>, path: &str) -> Result<Condition, FilterError> {
        let value = match value {
            Scalar::Number(number) => Scalar::Number(ordinary(number, path)?),
            other => other.into_owned(),
        };
        self.count(Condition::Equals(value), path)
    }

    fn count(&mut self, condition: Condition, path: &str) -> Result<Condition, FilterError> {
        self.conditions += 1;
        if self.conditions > MAX_CONDITIONS {
            return Err(error(
                path,
                format!("is one more than the {MAX_CONDITIONS} conditions that a filter may have"),
            ));
        }
        Ok(condition)
    }
}

fn ordinary(number: Number<'_>, path: &str) -> Result<Number<'static>, FilterError> {
    if number.is_ordinary() {
        return Ok(number.into_owned());
    }
    Err(error(path, format!("must be a number with an exponent of at most {MAX_MAGNITUDE}")))
}

/// `{"status": {"prefix": "x"}}` asks for a field of an object, but hardly means to.
fn refuse_misplaced_operator(members: &[(Cow<'_, str>, Json<'_>)], path: &str) -> Result<(), FilterError> {
    let [(name, operand)] = members else { return Ok(()) };
    let means_field = match operand {
        Json::List(items) => items.iter().all(|item| matches!(item, Json::Object(_))),
        Json::Object(_) => true,
        Json::Scalar(_) => false,
    };
    if means_field || !OPERATORS.contains(&&**name) {
        return Ok(());
    }
    let advice = format!(
        "a condition stands in a list: [{{\"{name}\": …}}]; for a field called {name:?} write {{\"{name}\": [{{\"equals\": …}}]}}"
    );
    Err(error(&step(path, name), advice))
}
