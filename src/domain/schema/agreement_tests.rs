//! The comparison of versions and the judge say the same: what is compatible lets no payload fall, and a witness falls.

use serde_json::{Map, Value, json};

use super::Schema;
use super::compat::{Compatibility, compare};

/// Pairs of versions that are compared.
const PAIRS: usize = 400;
/// The same with `LONG_TESTS`.
const MANY_PAIRS: usize = 10_000;
/// Payloads that are judged under both versions of a pair.
const PAYLOADS: usize = 10;

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "x-d"];

fn schema(dice: &mut Dice, depth: usize) -> Value {
    match dice.below(if depth == 0 { 6 } else { 12 }) {
        0 => json!(true),
        1 => json!({"type": dice.pick(&["string", "null", "boolean", "number", "integer"])}),
        2 => json!({"type": dice.pick(&["integer", "number"]), "minimum": dice.below(4), "maximum": dice.below(8)}),
        3 => json!({"type": "string", "minLength": dice.below(3), "maxLength": 1 + dice.below(4)}),
        4 => json!({"enum": [dice.below(3), dice.pick(&["a", "ab", "abc"]), null]}),
        5 => json!({"multipleOf": dice.pick(&[json!(0.5), json!(2), json!(3)])}),
        6 => {
            json!({"type": "array", "items": schema(dice, depth - 1), "minItems": dice.below(3), "maxItems": dice.below(4)})
        }
        7 => json!({"anyOf": [schema(dice, depth - 1), schema(dice, depth - 1)]}),
        8 => json!({"prefixItems": [schema(dice, depth - 1)], "uniqueItems": dice.one_in(2)}),
        9 => json!({"allOf": [schema(dice, depth - 1), schema(dice, depth - 1)]}),
        _ => object(dice, depth),
    }
}

fn object(dice: &mut Dice, depth: usize) -> Value {
    let mut properties = Map::new();
    for name in NAMES {
        if dice.one_in(2) {
            properties.insert(name.to_owned(), schema(dice, depth - 1));
        }
    }
    let required: Vec<_> = NAMES.into_iter().filter(|_| dice.one_in(4)).collect();
    let mut object = json!({"type": "object", "properties": properties, "required": required});
    if dice.one_in(3) {
        object["additionalProperties"] = dice.pick(&[json!(false), json!({"type": "integer"})]);
    }
    if dice.one_in(5) {
        object["patternProperties"] = json!({"^x-": {"type": "string"}});
    }
    if dice.one_in(6) {
        object["dependentRequired"] = json!({"a": ["b"]});
    }
    object
}

/// Another version: a keyword less, or another value of one, at some depth.
fn changed(dice: &mut Dice, before: &Value) -> Value {
    let Value::Object(keywords) = before else { return schema(dice, 1) };
    let mut after = keywords.clone();
    let Some(keyword) = (!after.is_empty()).then(|| dice.pick(&after.keys().cloned().collect::<Vec<_>>())) else {
        return schema(dice, 1);
    };
    match after.get_mut(&keyword) {
        Some(Value::Object(named)) if keyword == "properties" && !named.is_empty() => {
            let name = dice.pick(&named.keys().cloned().collect::<Vec<_>>());
            let other = changed(dice, &named[&name]);
            named.insert(name, other);
        }
        Some(Value::Array(all)) if keyword.ends_with("Of") => all[0] = changed(dice, &all[0]),
        Some(Value::Number(number)) if number.is_u64() => {
            after.insert(keyword, json!(1 + dice.below(8)));
        }
        _ => {
            after.remove(&keyword);
        }
    }
    Value::Object(after)
}

fn payload(dice: &mut Dice, depth: usize) -> Value {
    match dice.below(if depth == 0 { 6 } else { 12 }) {
        0 => Value::Null,
        1 => json!(dice.one_in(2)),
        2 => json!(dice.below(9)),
        3 => json!(dice.below(9) as f64 / 2.0),
        4 | 5 => json!(dice.pick(&["", "a", "ab", "abc", "abcde"])),
        6 | 7 => (0..dice.below(4)).map(|_| payload(dice, depth - 1)).collect(),
        _ => {
            let names = NAMES.into_iter().chain(["other"]);
            let names: Vec<_> = names.filter(|_| dice.one_in(2)).collect();
            names.into_iter().map(|name| (name.to_owned(), payload(dice, depth - 1))).collect::<Map<_, _>>().into()
        }
    }
}

#[test]
fn what_is_compatible_lets_no_payload_fall_and_a_witness_falls() {
    let pairs = if std::env::var_os("LONG_TESTS").is_some() { MANY_PAIRS } else { PAIRS };
    let mut dice = Dice(0x5eed);
    let (mut compatible, mut witnesses, mut judged) = (0, 0, 0);
    for _ in 0..pairs {
        let mut old = object(&mut dice, 2);
        let mut new = changed(&mut dice, &old);
        if dice.one_in(2) {
            std::mem::swap(&mut old, &mut new);
        }
        let comparison = compare(&old, &new, Compatibility::Backward);
        let (old_one, new_one) = (old.to_string(), new.to_string());
        let (from, into) = (Schema::compile(&old_one).unwrap(), Schema::compile(&new_one).unwrap());
        for witness in comparison.strict_reasons.iter().filter_map(|reason| reason.witness.as_ref()) {
            let text = witness.to_string();
            assert!(from.judge(&text).is_ok() && into.judge(&text).is_err(), "{text}: {old_one} {new_one}");
            witnesses += 1;
        }
        if !comparison.strict_reasons.is_empty() {
            continue;
        }
        compatible += 1;
        for _ in 0..PAYLOADS {
            let text = payload(&mut dice, 3).to_string();
            if from.judge(&text).is_ok() {
                judged += 1;
                assert_eq!(into.judge(&text), Ok(()), "{text}: {old_one} {new_one}");
            }
        }
    }
    assert!(
        compatible > pairs / 4 && witnesses > pairs / 10 && judged > pairs / 10,
        "{compatible} {witnesses} {judged}"
    );
}
