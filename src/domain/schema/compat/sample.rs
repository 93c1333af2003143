//! Values that are likely valid, as short as can be: what witnesses are made of. Each is judged before it is given, so
//! nothing here has to be right, only often so.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::arrays::parts_of_element;
use super::document::Node;
use super::number::Decimal;
use super::objects::parts_of_property;
use super::ranges::{Range, Types};
use super::shape::{Part, Shape};
use super::valid::valid;
use super::work::Work;

/// Values inside values.
const MAX_DEPTH: usize = 6;
/// Samples of one shape.
const MAX_SAMPLES: usize = 12;
/// Largest size of a string, array or object that is made up.
const MAX_SIZE: u64 = 2_000;
/// Texts of the kinds that are common.
const TEXTS: &[&str] =
    &["", "a", "A", "0", "1", "ab", "a b", "-", "é", "2020-01-01", "2020-01-01T00:00:00Z", "a@b.cd", "12.50", "EUR"];

pub(super) fn of_parts(parts: &[Part<'_>], lenient: bool, depth: usize, work: &mut Work) -> Vec<Value> {
    if depth > MAX_DEPTH {
        return Vec::new();
    }
    let shapes = Shape::all(parts, work).unwrap_or_default();
    let mut found = Vec::new();
    for shape in shapes.iter().take(4) {
        found.extend(of_shape(shape, lenient, depth, work));
    }
    found.truncate(MAX_SAMPLES);
    found
}

pub(super) fn of_shape(shape: &Shape<'_>, lenient: bool, depth: usize, work: &mut Work) -> Vec<Value> {
    let mut found: Vec<Value> = match &shape.values {
        Some(values) => values.iter().take(MAX_SAMPLES).map(|value| (*value).clone()).collect(),
        None => Vec::new(),
    };
    if shape.values.is_none() {
        if shape.types.meets(Types::OBJECT) {
            found.extend(objects(shape, lenient, depth, work));
        }
        if shape.types.meets(Types::ARRAY) {
            found.extend(array(shape, shape.items.least, lenient, depth, work));
            found.extend(array(shape, shape.items.least.max(1), lenient, depth, work));
        }
        if shape.types.meets(Types::STRING) {
            found.extend(strings(shape).into_iter().map(Value::from));
        }
        if shape.types.meets(Types::NUMBER) {
            found.extend(numbers(shape).into_iter().filter_map(Decimal::to_json));
        }
        if shape.types.meets(Types::BOOLEAN) {
            found.extend([Value::Bool(true), Value::Bool(false)]);
        }
        if shape.types.meets(Types::NULL) {
            found.push(Value::Null);
        }
    }
    found.retain(|value| is_likely(value, shape, work));
    found.truncate(MAX_SAMPLES);
    found
}

fn is_likely(value: &Value, shape: &Shape<'_>, work: &mut Work) -> bool {
    let mut refused = |node: &Node<'_>| valid(value, node, work) == Some(false);
    !shape.valid.iter().any(&mut refused)
}

fn strings(shape: &Shape<'_>) -> Vec<String> {
    let length = shape.length;
    let told = |node: &Node<'_>| {
        let lists = ["examples", "enum"].iter().filter_map(|keyword| node.get(keyword)?.as_array().cloned()).flatten();
        lists.chain(["default", "const"].iter().filter_map(|keyword| node.get(keyword).cloned())).collect::<Vec<_>>()
    };
    let told = shape.valid.iter().flat_map(told).filter_map(|value| value.as_str().map(str::to_owned));
    let mut found: Vec<_> = told.chain(TEXTS.iter().map(|text| (*text).to_owned())).collect();
    if (1..=MAX_SIZE).contains(&length.least) {
        found.insert(0, "a".repeat(length.least as usize));
    }
    found.retain(|text| {
        let size = text.chars().count() as u64;
        size >= length.least && length.reaches(size)
    });
    found
}

fn numbers(shape: &Shape<'_>) -> Vec<Decimal> {
    let step = shape.steps().next().unwrap_or(Decimal::ONE);
    let half = shape.types.meets(Types::FRACTION).then_some(Decimal::ONE.tenth());
    let range = shape.numbers;
    let mut found = vec![Decimal::ZERO];
    for base in [
        range.smallest(step),
        range.largest(step),
        range.least.map(|(least, _)| least),
        range.most.map(|(most, _)| most),
    ] {
        let Some(base) = base else { continue };
        found.extend([Some(base), base.plus(step), base.plus(step.negated())].into_iter().flatten());
        found.extend(half.and_then(|half| base.plus(half)));
        found.extend(half.and_then(|half| base.plus(half.negated())));
    }
    found.extend([Some(Decimal::ONE), Some(step), step.plus(step), half].into_iter().flatten());
    found.extend(half.and_then(|half| half.plus(step)));
    found.retain(|number| {
        let least = range.least.is_none_or(|(least, out)| *number > least || *number == least && !out);
        let most = range.most.is_none_or(|(most, out)| *number < most || *number == most && !out);
        least && most && shape.steps().all(|step| number.is_multiple_of(step))
    });
    found.dedup();
    found
}

/// Numbers of a range (whose lower bounds do not matter) that lie above a limit, or at it.
pub(super) fn numbers_beyond(shape: &Shape<'_>, range: Range, limit: Decimal, is_whole: bool) -> Vec<Decimal> {
    let mut found = Vec::new();
    let steps: Vec<_> = shape.steps().collect();
    let mut step = steps.first().copied().unwrap_or(Decimal::ONE);
    if steps.len() > 1 {
        // A common multiple of the first two, if it is near.
        let mut sum = Some(step);
        for _ in 0..100 {
            match sum {
                Some(near) if steps.iter().all(|step| near.is_multiple_of(*step)) => {
                    step = near;
                    break;
                }
                Some(near) => sum = near.plus(steps[0]),
                None => break,
            }
        }
    }
    found.extend(range.most.map(|(most, _)| most));
    found.extend(range.largest(step));
    found.extend(limit.down_to(step).and_then(|near| near.plus(step)));
    found.push(limit);
    found.extend(limit.plus(Decimal::ONE));
    if !is_whole {
        found.extend(limit.plus(Decimal::ONE.tenth()));
        found.extend(range.most.and_then(|(most, _)| most.plus(Decimal::ONE.tenth().negated())));
    }
    found
}

fn array(shape: &Shape<'_>, size: u64, lenient: bool, depth: usize, work: &mut Work) -> Option<Value> {
    if size > MAX_SIZE {
        return None;
    }
    let mut elements = Vec::new();
    for place in 0..size as usize {
        let choices = of_parts(&parts_of_element(shape, place), lenient, depth + 1, work);
        let fresh = choices.iter().find(|choice| !shape.unique || !elements.contains(*choice));
        elements.push(fresh.or(choices.first())?.clone());
    }
    Some(Value::Array(elements))
}

/// The smallest object, one with all that is named, and one with each name more.
fn objects(shape: &Shape<'_>, lenient: bool, depth: usize, work: &mut Work) -> Vec<Value> {
    let named: BTreeSet<_> =
        shape.valid.iter().flat_map(|node| node.named("properties")).map(|(name, _)| name).collect();
    let Some(least) = object(shape, shape.required.iter().copied(), lenient, depth, work) else { return Vec::new() };
    let mut found = vec![least];
    let all: BTreeSet<_> = named.union(&shape.required).copied().collect();
    found.extend(object(shape, all.iter().copied(), lenient, depth, work));
    if depth == 0 && named.len() <= 4 {
        for name in named.difference(&shape.required) {
            found.extend(object(shape, shape.required.iter().copied().chain([*name]), lenient, depth, work));
        }
    }
    found
}

fn object<'n>(
    shape: &Shape<'_>,
    names: impl Iterator<Item = &'n str>,
    lenient: bool,
    depth: usize,
    work: &mut Work,
) -> Option<Value> {
    let mut members = Map::new();
    for name in names {
        let parts = parts_of_property(shape, name, work).ok()?;
        match of_parts(&parts, lenient, depth + 1, work).into_iter().next() {
            Some(value) => {
                members.insert(name.to_owned(), value);
            }
            None if shape.required.contains(name) => return None,
            None => {}
        }
    }
    fill(shape, members, shape.properties.least, lenient, depth, work)
}

/// Adds properties until there are enough.
fn fill(
    shape: &Shape<'_>,
    mut members: Map<String, Value>,
    size: u64,
    lenient: bool,
    depth: usize,
    work: &mut Work,
) -> Option<Value> {
    let named: BTreeSet<_> =
        shape.valid.iter().flat_map(|node| node.named("properties")).map(|(name, _)| name.to_owned()).collect();
    let made_up = (0..size.min(MAX_SIZE)).filter(|_| !lenient).map(|count| format!("other{count}"));
    for name in named.into_iter().chain(made_up) {
        if members.len() as u64 >= size {
            break;
        }
        if !members.contains_key(&name) {
            let parts = parts_of_property(shape, &name, work).ok()?;
            if let Some(value) = of_parts(&parts, lenient, depth + 1, work).into_iter().next() {
                members.insert(name, value);
            }
        }
    }
    (members.len() as u64 >= size).then_some(Value::Object(members))
}

/// Values of a certain size, or of the least one.
pub(super) fn of_size(shape: &Shape<'_>, lenient: bool, size: Option<u64>, work: &mut Work) -> Vec<Value> {
    let mut found = Vec::new();
    let size_of_array = size.unwrap_or(shape.items.least);
    if shape.types.meets(Types::ARRAY) && shape.items.reaches(size_of_array) {
        found.extend(array(shape, size_of_array.max(shape.items.least), lenient, 0, work));
    }
    let size_of_object = size.unwrap_or(0);
    if shape.types.meets(Types::OBJECT)
        && let Some(Value::Object(members)) = object(shape, shape.required.iter().copied(), lenient, 0, work)
    {
        found.extend(fill(shape, members, size_of_object.max(shape.properties.least), lenient, 0, work));
    }
    if shape.types.meets(Types::STRING) {
        let length = size.unwrap_or(shape.length.least).max(shape.length.least);
        if length <= MAX_SIZE {
            found.extend(["a", "0", "A"].map(|one| Value::from(one.repeat(length as usize))));
        }
        found.extend(strings(shape).into_iter().map(Value::from));
    }
    found.extend(of_shape(shape, lenient, 0, work));
    found
}

/// Arrays with one element twice.
pub(super) fn of_twins(shape: &Shape<'_>, lenient: bool, work: &mut Work) -> Vec<Value> {
    let elements = of_parts(&parts_of_element(shape, 0), lenient, 1, work);
    let size = shape.items.least.clamp(2, MAX_SIZE) as usize;
    elements.into_iter().map(|element| Value::Array(vec![element; size])).collect()
}

pub(super) fn around_element(
    shape: &Shape<'_>,
    place: usize,
    elements: &[Value],
    lenient: bool,
    work: &mut Work,
) -> Vec<Value> {
    let size = shape.items.least.max(place as u64 + 1);
    let Some(Value::Array(around)) = array(shape, size, lenient, 1, work) else { return Vec::new() };
    let with = |element: &Value| {
        let mut around = around.clone();
        if shape.unique && around.contains(element) {
            around.retain(|other| other != element);
            around.resize(around.len().max(place), Value::Null);
            around.insert(place, element.clone());
            return Value::Array(around);
        }
        around[place] = element.clone();
        Value::Array(around)
    };
    elements.iter().map(with).collect()
}

pub(super) fn around_property(
    shapes: &[Shape<'_>],
    name: &str,
    values: &[Value],
    lenient: bool,
    work: &mut Work,
) -> Vec<Value> {
    let mut found = Vec::new();
    for shape in shapes.iter().take(4) {
        for around in objects(shape, lenient, 1, work).into_iter().take(2) {
            let Value::Object(around) = around else { continue };
            for value in values {
                let mut members = around.clone();
                members.insert(name.to_owned(), value.clone());
                found.push(Value::Object(members));
            }
        }
    }
    found
}

/// Objects that have a property with a name that is not told apart.
pub(super) fn around_others(
    shape: &Shape<'_>,
    names: &BTreeSet<&str>,
    values: &[Value],
    lenient: bool,
    work: &mut Work,
) -> Vec<Value> {
    let made_up = TEXTS.iter().map(|text| (*text).to_owned()).chain(["other".to_owned()]);
    let plain = shape.valid.iter().flat_map(|node| node.named("patternProperties"));
    let plain = plain.map(|(pattern, _)| pattern.trim_start_matches('^').trim_end_matches('$').to_owned());
    let mut all: Vec<_> = plain.chain(made_up).collect();
    all.sort_by_key(|name| name != "other");
    let around = object(shape, shape.required.iter().copied(), lenient, 1, work);
    let Some(Value::Object(around)) = around else { return Vec::new() };
    let mut found = Vec::new();
    for name in all.into_iter().filter(|name| !names.contains(name.as_str())) {
        for value in values.iter().take(3) {
            let mut members = around.clone();
            members.insert(name.clone(), value.clone());
            found.push(Value::Object(members));
        }
    }
    found
}

pub(super) fn with_names(shape: &Shape<'_>, names: &[Value], lenient: bool, work: &mut Work) -> Vec<Value> {
    let mut found = Vec::new();
    for name in names.iter().filter_map(Value::as_str) {
        let Ok(parts) = parts_of_property(shape, name, work) else { continue };
        let values = of_parts(&parts, lenient, 1, work);
        found.extend(around_property(std::slice::from_ref(shape), name, &values[..values.len().min(2)], lenient, work));
    }
    found
}

/// Objects that do not have a property.
pub(super) fn without_property(shape: &Shape<'_>, name: &str, lenient: bool, work: &mut Work) -> Vec<Value> {
    objects(shape, lenient, 0, work)
        .into_iter()
        .filter_map(|value| {
            let Value::Object(mut members) = value else { return None };
            members.remove(name);
            Some(Value::Object(members))
        })
        .collect()
}
