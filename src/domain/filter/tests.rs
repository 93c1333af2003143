use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn filter(json: &str) -> Filter {
    Filter::parse(json).unwrap_or_else(|error| panic!("{error} in {json}"))
}

fn error(json: &str) -> String {
    Filter::parse(json).expect_err(json).to_string()
}

#[test]
fn the_example_holds() {
    let filter = filter(
        r#"{"status":["open",{"prefix":"re"}],"price":[{"numeric":[">=",10,"<",20]}],"customer":{"tier":["gold"]},
            "note":[{"exists":false}],"kind":[{"anything-but":["x","y"]}],"file":[{"suffix":".pdf"}]}"#,
    );
    let good =
        json!({"status":"reopened","price":10,"customer":{"tier":"gold","id":1},"kind":"z","file":"a.pdf","more":[1]});
    assert!(filter.matches(&good.to_string()));
    for (field, value, failure) in [
        ("status", json!("closed"), "filter.status: has no value that is asked for"),
        ("price", json!(20), "filter.price: has no value that is asked for"),
        ("price", json!("10"), "filter.price: has no value that is asked for"),
        ("customer", json!({"tier":"tin"}), "filter.customer.tier: has no value that is asked for"),
        ("customer", json!("gold"), "filter.customer.tier: is missing"),
        ("customer", json!([{}, {"tier":"tin"}]), "filter.customer: no element has all that is asked for"),
        ("note", json!(null), "filter.note: is there"),
        ("kind", json!("y"), "filter.kind: has no value that is asked for"),
        ("file", json!("pdf"), "filter.file: has no value that is asked for"),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        assert!(!filter.matches(&bad.to_string()), "{bad}");
        let told = filter.first_failure(&bad.to_string()).map(|failure| failure.to_string());
        assert_eq!(told.as_deref(), Some(failure), "{bad}");
    }
}

#[test]
fn values_are_compared_as_what_they_are() {
    for (asked, payload, holds) in [
        (r#"{"a":1}"#, r#"{"a":1.0}"#, true),
        (r#"{"a":1}"#, r#"{"a":"1"}"#, false),
        (r#"{"a":[{"equals":null}]}"#, r#"{"a":null}"#, true),
        (r#"{"a":null}"#, r#"{}"#, false),
        (r#"{"a":true}"#, r#"{"a":"true"}"#, false),
        (r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992}"#, false),
        (r#"{"a":1e400}"#, r#"{"a":10e399}"#, true),
        (r#"{"a":1e400}"#, r#"{"a":1e401}"#, false),
        (r#"{"a":[{"numeric":[">",1e400]}]}"#, r#"{"a":1e99999999999999999999}"#, true),
        (r#"{"a":[{"numeric":["=",0]}]}"#, r#"{"a":-0.0e7}"#, true),
        (r#"{"a":"\u0041b"}"#, r#"{"a":"A\u0062"}"#, true),
        (r#"{"\u0061":"x"}"#, r#"{"a":"x"}"#, true),
        (r#"{"a":[{"equals-ignore-case":"GrÖßE"}]}"#, r#"{"a":"gröSSe"}"#, false),
        (r#"{"a":[{"equals-ignore-case":"GrÖßE"}]}"#, r#"{"a":"GRößE"}"#, true),
        (r#"{"a":[{"anything-but":{"prefix":"x"}}]}"#, r#"{"a":7}"#, true),
        (r#"{"a":[{"anything-but":{"prefix":"x"}}]}"#, r#"{}"#, false),
        (r#"{"a":[{"anything-but":"x"}]}"#, r#"{"a":"\ud800"}"#, true),
        (r#"{"a":"\ufffd"}"#, r#"{"a":"\ud800"}"#, false),
        // Keys with dots are names, not paths.
        (r#"{"a.b":1}"#, r#"{"a.b":1}"#, true),
        (r#"{"a.b":1}"#, r#"{"a":{"b":1}}"#, false),
        (r#"{"a":{"b":1}}"#, r#"{"a.b":1}"#, false),
        // Arrays, and arrays in arrays, hold if an element does; one element has to have all that is asked for.
        (r#"{"a":2}"#, r#"{"a":[1,[[],[2]]]}"#, true),
        (r#"{"a":{"b":1,"c":1}}"#, r#"{"a":[{"b":1},{"c":1}]}"#, false),
        (r#"{"a":{"b":1,"c":1}}"#, r#"{"a":[{"b":1},[{"c":1,"b":1}]]}"#, true),
        (r#"{"a":1}"#, r#"[{"a":2},{"a":1}]"#, true),
        (r#"{"a":1}"#, r#"{"a":[]}"#, false),
        // What is there, and what is not.
        (r#"{"a":[{"exists":true}]}"#, r#"{"a":[]}"#, true),
        (r#"{"a":[{"exists":true}]}"#, r#"{"a":{"b":1}}"#, true),
        (r#"{"a":{"b":[{"exists":false}]}}"#, r#"{}"#, true),
        (r#"{"a":{"b":[{"exists":false}]}}"#, r#"5"#, true),
        (r#"{"a":[{"exists":false},"x"]}"#, r#"{"a":"y"}"#, false),
        // The last of several fields with one name counts.
        (r#"{"a":1}"#, r#"{"a":1,"a":2}"#, false),
        (r#"{"a":2}"#, r#"{"a":1,"b":0,"\u0061":2}"#, true),
        (r#"{"a":{"b":1}}"#, r#"{"a":{"b":1},"a":{}}"#, false),
        (r#"{"$or":[{"a":1},{"b":{"c":2}}],"d":3}"#, r#"{"b":{"c":2},"d":3}"#, true),
        (r#"{"$or":[{"a":1},{"b":{"c":2}}],"d":3}"#, r#"{"b":{"c":1},"d":3}"#, false),
    ] {
        assert_eq!(filter(asked).matches(payload), holds, "{asked} {payload}");
        assert_eq!(filter(asked).first_failure(payload).is_none(), holds, "{asked} {payload}");
        let mut set = FilterSet::default();
        set.insert(&filter(asked));
        assert_eq!(passing(&set, payload).len(), usize::from(holds), "{asked} {payload}");
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (json, message) in [
        (r#"{"price":[{"numeric":[">","x"]}]}"#, "filter.price[0].numeric[1]: must be a number"),
        (r#"{"price":[1,{"numeric":["~",1]}]}"#, r#"filter.price[1].numeric[0]: must be "<", "<=", "=", ">=" or ">""#),
        (
            r#"{"price":[{"numeric":[">"]}]}"#,
            "filter.price[0].numeric: must be one or two comparisons, each of them a sign and a number",
        ),
        (r#"{"a":{"b":[{"prefix":1}]}}"#, "filter.a.b[0].prefix: must be a string"),
        (r#"{"a":[{"exists":"no"}]}"#, "filter.a[0].exists: must be true or false"),
        (r#"{"a":[{"anything-but":[{"prefix":"x"}]}]}"#, "filter.a[0].anything-but[0]: must be a value"),
        (
            r#"{"a":[{"prefix":"x","suffix":"y"}]}"#,
            "filter.a[0]: must have exactly one condition; several alternatives are several items",
        ),
        (r#"{"a.b":[]}"#, r#"filter["a.b"]: must list at least one value or condition"#),
        (r#"{"a":[["x"]]}"#, "filter.a[0]: must be a value or a condition, not a list"),
        (r#"{"a":{}}"#, "filter.a: must name at least one field"),
        ("{}", "filter: must name at least one field"),
        ("[]", "filter: must be a JSON object"),
        (r#"{"a":1,"a":2}"#, "filter.a: is given twice"),
        (r#"{"$or":{"a":1}}"#, "filter.$or: must be a list of objects, each of them written like a filter"),
        (r#"{"$or":[{"a":1},2]}"#, "filter.$or[1]: must be an object, written like a filter"),
        (r#"{"a":"\ud800"}"#, "filter: is nested too deeply, or has a string that is not Unicode"),
        (r#"{"a":1e9999999999}"#, "filter.a: must be a number with an exponent of at most 1000000000"),
    ] {
        assert_eq!(error(json), message, "{json}");
    }
    for json in [r#"{"a":[{"cidr":"10.0.0.0/8"}]}"#, r#"{"a":[{"anything-but":{"exists":true}}]}"#] {
        assert!(error(json).contains("is no condition here; known are equals, prefix"), "{}", error(json));
    }
    assert!(error("{\"a\":").starts_with("filter: not valid JSON: "));
    // What was hardly meant is not taken for a field's name; what was meant can be written.
    for json in [r#"{"a":{"prefix":"x"}}"#, r#"{"a":{"numeric":[">",1]}}"#, r#"{"a":{"exists":false}}"#] {
        assert!(error(json).contains("a condition stands in a list"), "{}", error(json));
    }
    assert!(filter(r#"{"a":{"prefix":[{"equals":"x"}]}}"#).matches(r#"{"a":{"prefix":"x"}}"#));
}

#[test]
fn cost_is_bounded() {
    let deep = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    assert!(Filter::parse(&deep(MAX_DEPTH)).is_ok());
    assert_eq!(
        error(&deep(MAX_DEPTH + 1)),
        format!("filter{}: is deeper than 8 objects in each other", ".a".repeat(8))
    );
    assert!(error(&deep(1000)).contains("nested too deeply"));
    let wide = |count: usize| format!(r#"{{"a":[{}]}}"#, vec!["1"; count].join(","));
    assert!(Filter::parse(&wide(MAX_CONDITIONS)).is_ok());
    assert_eq!(
        error(&wide(MAX_CONDITIONS + 1)),
        "filter.a[256]: is one more than the 256 conditions that a filter may have"
    );
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_TEXT));
    assert_eq!(error(&long), format!("filter: must be at most 8192 bytes long, not {}", long.len()));
    // Payloads may be as deep as they like.
    let deep = format!(
        r#"{{"b":{}{},"a":{}1{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000),
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(filter(r#"{"a":1}"#).matches(&deep));
}

#[test]
fn white_space_makes_no_difference() {
    let (spaced, dense) = (filter("{ \"a b\" : [ 1,\t\"x \\\" y\" ]\n}"), filter(r#"{"a b":[1,"x \" y"]}"#));
    assert_eq!(spaced, dense);
    assert_eq!(spaced.as_json(), r#"{"a b":[1,"x \" y"]}"#);
}

#[test]
fn an_empty_object_ends_where_it_ends() {
    let mut set = FilterSet::default();
    let (deep, beside) = (filter(r#"{"a":{"b":{"c":[1]}}}"#), filter(r#"{"z":[1]}"#));
    let (_, beside) = (set.insert(&deep), set.insert(&beside));
    for payload in [r#"{"a":{"b":{}},"z":1}"#, r#"{"a":{"b":[{ } ]},"z":1}"#, r#"[{"a":{}},{"z":1}]"#] {
        assert_eq!(passing(&set, payload), [beside], "{payload}");
    }
    assert!(!filter(r#"{"a":{"b":{"c":1}},"z":[{"exists":false}]}"#).matches(r#"{"a":{"b":{}},"z":1}"#));
    assert!(filter(r#"{"a":{"b":{"c":[{"exists":false}]}},"z":1}"#).matches(r#"{"a":{"b":{}},"z":1}"#));
}

fn passing(set: &FilterSet, payload: &str) -> Vec<FilterId> {
    let mut found = Vec::new();
    let document = Document::for_sets(payload, std::iter::once(set));
    set.for_each_passing(&document, &mut Candidates::default(), |id| found.push(id));
    found
}

/// What a filter means, spelled out over trees.
mod naive {
    use serde_json::{Map, Value};

    pub fn passes(filter: &Map<String, Value>, object: Option<&Map<String, Value>>) -> bool {
        filter.iter().all(|(name, asked)| {
            if name == "$or" {
                let alternatives = asked.as_array().into_iter().flatten().filter_map(Value::as_object);
                return alternatives.into_iter().any(|filter| passes(filter, object));
            }
            let value = object.and_then(|object| object.get(name));
            match asked {
                Value::Object(nested) => passes_any(nested, value),
                Value::Array(conditions) => conditions.iter().any(|condition| holds(condition, value)),
                scalar => holds(scalar, value),
            }
        })
    }

    pub fn passes_any(filter: &Map<String, Value>, value: Option<&Value>) -> bool {
        let elements = value.map(elements).unwrap_or_default();
        if elements.is_empty() {
            return passes(filter, None);
        }
        elements.into_iter().any(|element| passes(filter, element.as_object()))
    }

    fn elements(value: &Value) -> Vec<&Value> {
        match value {
            Value::Array(items) => items.iter().flat_map(elements).collect(),
            other => vec![other],
        }
    }

    fn holds(condition: &Value, value: Option<&Value>) -> bool {
        if let Some(wanted) = condition.get("exists") {
            return value.is_some() == (wanted == true);
        }
        let scalars = value.map(elements).unwrap_or_default().into_iter().filter(|v| !v.is_object());
        scalars.into_iter().any(|scalar| holds_for(condition, scalar))
    }

    fn holds_for(condition: &Value, value: &Value) -> bool {
        let Some((operator, operand)) = condition.as_object().and_then(|map| map.iter().next()) else {
            return match (condition.as_f64(), value.as_f64()) {
                (Some(a), Some(b)) => a == b,
                _ => condition == value,
            };
        };
        let texts = value.as_str().zip(operand.as_str());
        match (operator.as_str(), operand) {
            ("equals", operand) => holds_for(operand, value),
            ("prefix", _) => texts.is_some_and(|(text, prefix)| text.starts_with(prefix)),
            ("suffix", _) => texts.is_some_and(|(text, suffix)| text.ends_with(suffix)),
            ("equals-ignore-case", _) => texts.is_some_and(|(text, other)| text.to_lowercase() == other.to_lowercase()),
            ("numeric", Value::Array(bounds)) => value.as_f64().is_some_and(|value| {
                bounds.chunks(2).all(|pair| {
                    let bound = pair[1].as_f64().expect("a number");
                    match pair[0].as_str() {
                        Some("<") => value < bound,
                        Some("<=") => value <= bound,
                        Some("=") => value == bound,
                        Some(">=") => value >= bound,
                        _ => value > bound,
                    }
                })
            }),
            ("anything-but", Value::Array(refused)) => !refused.iter().any(|refused| holds_for(refused, value)),
            ("anything-but", refused) => !holds_for(refused, value),
            other => panic!("no condition: {other:?}"),
        }
    }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec!["", "a", "ab", "abc", "B", "ba", "é\"\\"]).prop_map(Value::from),
        (-2..4i32).prop_map(Value::from),
        prop::sample::select(vec![1.0, 0.5, -2.5, 3.0]).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "a.b", "é\""]).prop_map(str::to_owned)
}

fn payload() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![8 => scalar(), 1 => Just(json!({}))];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::btree_map(name(), inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn condition() -> impl Strategy<Value = Value> {
    let text = || prop::sample::select(vec!["", "a", "ab", "b", "é"]);
    let sign = || prop::sample::select(vec!["<", "<=", "=", ">=", ">"]);
    prop_oneof![
        4 => scalar(),
        1 => scalar().prop_map(|value| json!({"equals": value})),
        2 => text().prop_map(|text| json!({"prefix": text})),
        1 => text().prop_map(|text| json!({"suffix": text})),
        1 => text().prop_map(|text| json!({"equals-ignore-case": text})),
        1 => any::<bool>().prop_map(|exists| json!({"exists": exists})),
        1 => (sign(), -2..4i32).prop_map(|(sign, bound)| json!({"numeric": [sign, bound]})),
        1 => (sign(), -2..4i32, sign(), -2..4i32).prop_map(|(a, m, b, n)| json!({"numeric": [a, m, b, n]})),
        1 => prop::collection::vec(scalar(), 1..3).prop_map(|refused| json!({"anything-but": refused})),
        1 => scalar().prop_map(|refused| json!({"anything-but": refused})),
        1 => text().prop_map(|text| json!({"anything-but": {"suffix": text}})),
    ]
}

fn filters() -> impl Strategy<Value = Value> {
    let test = prop_oneof![
        2 => prop::collection::vec(condition(), 1..3).prop_map(Value::from),
        1 => scalar(),
    ];
    let fields = prop::collection::btree_map(name(), test, 1..3)
        .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()));
    fields.prop_recursive(3, 12, 3, |inner| {
        let alternatives = prop::option::weighted(0.2, prop::collection::vec(inner.clone(), 1..3));
        (prop::collection::btree_map(name(), inner, 1..3), alternatives).prop_map(|(mut fields, alternatives)| {
            if let Some(alternatives) = alternatives {
                fields.insert("$or".to_owned(), Value::from(alternatives));
            }
            fields.into_iter().collect()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// One by one, several read together, and in a set after removals: all agree with the meaning spelled out.
    #[test]
    fn agrees_with_the_naive_evaluator(
        asked in prop::collection::vec((filters(), any::<bool>()), 1..12),
        payloads in prop::collection::vec(payload(), 1..6),
    ) {
        let compiled: Vec<Filter> = asked.iter().map(|(json, _)| filter(&json.to_string())).collect();
        let mut set = FilterSet::default();
        let ids: Vec<FilterId> = compiled.iter().map(|filter| set.insert(filter)).collect();
        for (id, _) in ids.iter().zip(&asked).filter(|(_, (_, kept))| !kept) {
            set.remove(*id);
        }
        for payload in &payloads {
            let text = serde_json::to_string_pretty(payload).expect("JSON");
            let found = passing(&set, &text);
            let together = Document::for_filters(&text, compiled.iter());
            for (filter, (json, _)) in compiled.iter().zip(&asked) {
                let expected = naive::passes_any(json.as_object().expect("an object"), Some(payload));
                prop_assert_eq!(filter.matches(&text), expected, "{} {}", filter, text);
                prop_assert_eq!(filter.first_failure(&text).is_none(), expected, "{} {}", filter, text);
                prop_assert_eq!(together.passes(filter), expected, "{} {}", filter, text);
                if let Some(id) = set.id(filter) {
                    prop_assert_eq!(found.contains(&id), expected, "{} {}", filter, text);
                }
            }
            prop_assert!(found.iter().all(|id| compiled.iter().any(|filter| set.id(filter) == Some(*id))));
        }
    }

    /// Whatever text: no panic, and no recursion without end.
    #[test]
    fn other_texts_do_no_harm(text in "[\\[\\]{}:,\"\\\\a1e.+\\- é]{0,40}") {
        let _ = Filter::parse(&text);
        filter(r#"{"a":{"a":1}}"#).matches(&text);
    }
}

#[test]
fn so_many_elements_are_looked_at_and_no_more() {
    let last = Filter::parse(r#"{"a":[7]}"#).expect("valid");
    let payload = |zeros: usize| format!(r#"{{"a":[{}7]}}"#, "0,".repeat(zeros));
    assert!(last.matches(&payload(MAX_ELEMENTS - 1)) && !last.matches(&payload(MAX_ELEMENTS)));
    let after = Filter::parse(r#"{"b":[7]}"#).expect("valid");
    assert!(after.matches(&format!(r#"{{"a":[{}0],"b":7}}"#, "0,".repeat(5_000))), "what is no element is looked at");
}

#[test]
fn is_the_same_in_every_spelling_and_another_in_meaning() {
    let same: [&[&str]; 6] = [
        &[
            r#"{"a":5}"#,
            r#"{"a":[5]}"#,
            r#"{"a":[5.0, 50e-1]}"#,
            r#"{"a":[{"equals":5}]}"#,
            r#"{"a":[{"numeric":["=",5]}]}"#,
        ],
        &[r#"{"a":"x","b":{"c":[1,2]}}"#, r#"{"b":{"c":[2,1,2.0]},"\u0061":["\u0078"]}"#],
        &[r#"{"a":[{"numeric":[">",1,"<",2]}]}"#, r#"{"a":[{"numeric":["<",2.0,">",1]}]}"#],
        &[r#"{"a":[{"anything-but":"x"}]}"#, r#"{"a":[{"anything-but":["x"]}]}"#],
        &[r#"{"$or":[{"a":1},{"b":2}]}"#, r#"{"$or":[{"b":[2]},{"a":1},{"b":2}]}"#],
        &[r#"{"a":[{"equals-ignore-case":"X"}]}"#, r#"{"a":[{"equals-ignore-case":"x"}]}"#],
    ];
    let others = [
        r#"{"a":"5"}"#,
        r#"{"a":[5,6]}"#,
        r#"{"or":[1]}"#,
        r#"{"a":{"or":[1]}}"#,
        r#"{"a":"x","b":[1,2]}"#,
        r#"{"a":[{"prefix":"x"}]}"#,
        r#"{"a":[{"suffix":"x"}]}"#,
        r#"{"a":["x\",\"y"]}"#,
        r#"{"a":["x","y"]}"#,
        r#"{"a":[{"exists":true}]}"#,
        r#"{"a":[{"exists":false}]}"#,
        r#"{"a":[{"anything-but":{"prefix":"x"}}]}"#,
    ];
    let mut set = FilterSet::default();
    let mut different = HashSet::new();
    for spellings in same {
        let ids: Vec<FilterId> = spellings.iter().map(|spelling| set.insert(&filter(spelling))).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{spellings:?}");
        different.insert(ids[0]);
    }
    for other in others {
        different.insert(set.insert(&filter(other)));
    }
    assert_eq!(different.len(), same.len() + others.len(), "different ones are different");
}
