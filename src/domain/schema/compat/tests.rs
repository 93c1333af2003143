//! Decisions, one by one.

use serde_json::{Value, json};

use super::{Comparison, Compatibility, compare};

fn backward(old: Value, new: Value) -> Comparison {
    compare(&old, &new, Compatibility::Backward)
}

fn rules(comparison: &Comparison) -> Vec<(&str, &str)> {
    comparison.reasons.iter().map(|reason| (reason.rule, reason.path.as_str())).collect()
}

fn order() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string", "minLength": 1, "maxLength": 36},
            "amount": {"type": "integer", "minimum": 1, "maximum": 100},
            "state": {"enum": ["open", "closed"]},
            "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "minItems": 1},
            "note": {"type": ["string", "null"]},
        },
        "required": ["id", "amount"],
        "$defs": {"line": {"type": "object", "properties": {"sku": {"type": "string"}}, "required": ["sku"]}},
    })
}

/// The order with the value at a pointer replaced; a last part `-` adds to a list.
fn order_with(changes: &[(&str, Value)]) -> Value {
    let mut order = order();
    for (pointer, value) in changes {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        match order.pointer_mut(parent).unwrap() {
            Value::Object(members) => drop(members.insert(last.to_owned(), value.clone())),
            Value::Array(elements) if last == "-" => elements.push(value.clone()),
            Value::Array(elements) => elements[last.parse::<usize>().unwrap()] = value.clone(),
            _ => unreachable!(),
        }
    }
    order
}

#[test]
fn what_widens_is_compatible() {
    let widened: &[&[(&str, Value)]] = &[
        &[("/properties/added", json!({"type": "string"}))],
        &[("/$defs/line/properties/count", json!({"type": "integer", "minimum": 1}))],
        &[("/properties/state/enum/-", json!("late"))],
        &[("/properties/state/enum", json!(["late", "closed", "open"]))],
        &[("/properties/amount/maximum", json!(1000))],
        &[("/properties/amount/minimum", json!(0.5))],
        &[("/properties/amount/type", json!("number"))],
        &[("/properties/amount/type", json!(["integer", "string"]))],
        &[("/properties/amount", json!({"anyOf": [{"type": "null"}, {"type": "integer"}]}))],
        &[("/properties/amount", json!({"oneOf": [{"type": "string"}, {"type": "number", "minimum": 0}]}))],
        &[("/properties/id", json!({"type": "string"}))],
        &[("/properties/id", json!(true))],
        &[("/required", json!(["id"]))],
        &[("/required", json!(["amount", "id"]))],
        &[("/$defs/more", json!({"type": "string"}))],
        &[("/properties/lines/minItems", json!(0))],
        &[("/properties/lines/items", json!({"type": "object"}))],
        &[("/additionalProperties", json!(false))],
        &[("/additionalProperties", json!(false)), ("/properties/added", json!({"type": "string"}))],
        &[("/$defs/line/required", json!([]))],
        &[("/properties/note", json!({"$ref": "#/$defs/note"})), ("/$defs/note", json!({"type": ["null", "string"]}))],
        &[("/description", json!("An order")), ("/properties/id/format", json!("uuid"))],
        &[("/not", json!({"type": "string"}))],
        &[("/allOf", json!([{"required": ["id"]}, {"properties": {"amount": {"maximum": 100}}}]))],
        &[("/maxProperties", json!(5))],
        &[("/propertyNames", json!({"maxLength": 10}))],
    ];
    for changes in widened {
        let comparison = backward(order(), order_with(changes));
        assert_eq!(rules(&comparison), [], "{changes:?}");
        // What widens this way is a narrower one that way.
        let forward = compare(&order_with(changes), &order(), Compatibility::Forward);
        assert_eq!(rules(&forward), [], "{changes:?}");
    }
}

#[test]
fn what_narrows_is_not_and_a_witness_shows_it() {
    let narrowed: &[(&str, Value, &str, &str)] = &[
        ("/properties/amount/maximum", json!(99), "maximum_lowered", "/properties/amount/maximum"),
        ("/properties/amount/minimum", json!(2), "minimum_raised", "/properties/amount/minimum"),
        ("/properties/amount/exclusiveMinimum", json!(1), "minimum_raised", "/properties/amount/exclusiveMinimum"),
        ("/properties/amount/multipleOf", json!(2), "multiple_of_changed", "/properties/amount/multipleOf"),
        ("/properties/amount/type", json!("string"), "type_narrowed", "/properties/amount/type"),
        ("/properties/note/type", json!("string"), "type_narrowed", "/properties/note/type"),
        ("/properties/state/enum", json!(["open"]), "enum_value_removed", "/properties/state/enum"),
        ("/properties/state", json!({"const": "open"}), "const_changed", "/properties/state/const"),
        ("/properties/id/enum", json!(["a"]), "enum_value_removed", "/properties/id/enum"),
        ("/properties/id/maxLength", json!(35), "max_length_lowered", "/properties/id/maxLength"),
        ("/properties/id/minLength", json!(2), "min_length_raised", "/properties/id/minLength"),
        ("/properties/id/pattern", json!("^x"), "pattern_changed", "/properties/id/pattern"),
        ("/properties/lines/minItems", json!(2), "min_items_raised", "/properties/lines/minItems"),
        ("/properties/lines/maxItems", json!(2), "max_items_lowered", "/properties/lines/maxItems"),
        ("/properties/lines/uniqueItems", json!(true), "unique_items_required", "/properties/lines/uniqueItems"),
        ("/properties/lines/items", json!(false), "items_closed", "/properties/lines/items"),
        ("/properties/lines/contains", json!({"required": ["x"]}), "contains_changed", "/properties/lines/contains"),
        ("/properties/id", json!(false), "value_forbidden", "/properties/id"),
        ("/required/-", json!("state"), "property_required", "/required"),
        ("/$defs/line/required/-", json!("count"), "property_required", "/$defs/line/required"),
        ("/$defs/line/properties/sku/type", json!("integer"), "type_narrowed", "/$defs/line/properties/sku/type"),
        ("/maxProperties", json!(4), "max_properties_lowered", "/maxProperties"),
        ("/minProperties", json!(3), "min_properties_raised", "/minProperties"),
        ("/propertyNames", json!({"maxLength": 5}), "property_names_narrowed", "/propertyNames"),
        ("/dependentRequired", json!({"note": ["state"]}), "dependency_added", "/dependentRequired"),
        (
            "/dependentSchemas",
            json!({"note": {"required": ["state"]}}),
            "property_required",
            "/dependentSchemas/note/required",
        ),
        ("/not", json!({"required": ["state"]}), "not_changed", "/not"),
        ("/anyOf", json!([{"required": ["state"]}, {"required": ["note"]}]), "any_of_narrowed", "/anyOf"),
        ("/oneOf", json!([{"required": ["id"]}, {"required": ["note"]}]), "one_of_changed", "/oneOf"),
        ("/then", json!(true), "", ""),
    ];
    for (pointer, value, rule, path) in narrowed.iter().filter(|(.., rule, _)| !rule.is_empty()) {
        let comparison = backward(order(), order_with(&[(pointer, value.clone())]));
        assert_eq!(rules(&comparison), [(*rule, *path)], "{pointer} {value}: {comparison:#?}");
        assert!(comparison.reasons[0].witness.is_some(), "{pointer} {value}: {comparison:#?}");
    }
}

#[test]
fn a_property_that_is_removed_from_a_closed_schema_is_named() {
    let mut old = order();
    old["additionalProperties"] = json!(false);
    let mut new = old.clone();
    new["properties"].as_object_mut().unwrap().remove("note");
    let comparison = backward(old, new);
    assert_eq!(rules(&comparison), [("property_removed", "/additionalProperties")]);
    assert_eq!(comparison.reasons[0].witness, Some(json!({"amount": 1, "id": "a", "note": ""})));
}

#[test]
fn the_strict_ones_count_properties_that_nobody_names() {
    let comparison = backward(order(), order_with(&[("/properties/added", json!({"type": "string"}))]));
    assert_eq!(comparison.reasons, []);
    let strict = &comparison.strict_reasons[0];
    assert_eq!((strict.rule, strict.path.as_str()), ("type_narrowed", "/properties/added/type"));
    assert!(strict.witness.is_some());
    let closed = backward(order(), order_with(&[("/additionalProperties", json!(false))]));
    assert_eq!(closed.strict_reasons[0].rule, "additional_properties_closed");
    assert!(closed.strict_reasons[0].witness.is_some());
}

#[test]
fn schemas_that_refer_to_themselves_are_compared() {
    let tree = |value: Value| {
        json!({"$ref": "#/$defs/node", "$defs": {"node": {
            "type": "object",
            "properties": {"value": value, "next": {"$ref": "#/$defs/node"}, "all": {"type": "array", "items": {"$ref": "#"}}},
        }}})
    };
    assert_eq!(rules(&backward(tree(json!({"type": "integer"})), tree(json!({"type": "number"})))), []);
    let narrowed = backward(tree(json!({"type": "number"})), tree(json!({"type": "integer"})));
    assert_eq!(rules(&narrowed), [("type_narrowed", "/$defs/node/properties/value/type")]);
    assert!(narrowed.reasons[0].witness.is_some());
    let endless = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}});
    assert_eq!(backward(json!({"type": "object"}), endless).reasons[0].rule, "not_decided");
}

#[test]
fn alternatives_are_matched() {
    let of = |kinds: &[(&str, Value)], keyword: &str| {
        let branch = |(kind, value): &(&str, Value)| json!({"type": "object", "properties": {"kind": {"const": kind}, "value": value}, "required": ["kind"]});
        json!({keyword: kinds.iter().map(branch).collect::<Vec<_>>()})
    };
    let (a, b, c) = (("a", json!({"type": "integer"})), ("b", json!({"type": "string"})), ("c", json!(true)));
    for keyword in ["oneOf", "anyOf"] {
        let old = of(&[a.clone(), b.clone()], keyword);
        assert_eq!(rules(&backward(old.clone(), of(&[c.clone(), b.clone(), a.clone()], keyword))), [], "{keyword}");
        assert_eq!(
            rules(&backward(old.clone(), of(&[b.clone(), ("a", json!({"type": "number"}))], keyword))),
            [],
            "{keyword}"
        );
        let removed = backward(old.clone(), of(std::slice::from_ref(&b), keyword));
        assert!(removed.reasons.iter().all(|reason| reason.witness.is_some()), "{keyword} {removed:#?}");
        let narrowed = backward(old, of(&[a.clone(), ("b", json!({"type": "null"}))], keyword));
        assert_eq!(rules(&narrowed), [("type_narrowed", &*format!("/{keyword}/1/properties/value/type"))], "{keyword}");
    }
}

#[test]
fn what_cannot_be_decided_says_so() {
    let of = |pattern: &str| json!({"properties": {"a": {"type": "string", "pattern": pattern}}});
    let comparison = backward(of("^[a-f]{3,5}$"), of("^[a-z]{3,9}$"));
    assert_eq!(rules(&comparison), [("not_decided", "/properties/a/pattern")]);
    assert_eq!(comparison.reasons[0].message, "not decided: `pattern` at /properties/a/pattern");
}

#[test]
fn draft_07_is_read_as_it_is() {
    let of = |schema: Value| {
        let mut schema = schema;
        schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
        schema
    };
    let reference = |beside: Value| {
        of(
            json!({"properties": {"a": {"$ref": "#/definitions/a", "maximum": beside}}, "definitions": {"a": {"type": "integer"}}}),
        )
    };
    assert_eq!(rules(&backward(reference(json!(7)), reference(json!(5)))), []);
    let tuple = |rest: Value| of(json!({"type": "array", "items": [{"type": "string"}], "additionalItems": rest}));
    assert_eq!(rules(&backward(tuple(json!({"type": "integer"})), tuple(json!(true)))), []);
    assert_eq!(rules(&backward(tuple(json!(true)), tuple(json!(false)))), [("items_closed", "/additionalItems")]);
    let newest = json!({"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "number"}});
    assert_eq!(rules(&backward(tuple(json!({"type": "integer"})), newest)), []);
}

#[test]
fn what_means_something_else_elsewhere_is_not_decided() {
    let of = |title: &str, least: u64| json!({"title": title, "properties": {"a": {"$dynamicRef": "#x"}}, "$defs": {"x": {"$dynamicAnchor": "x", "minLength": least}}});
    assert_eq!(rules(&backward(of("a", 1), of("b", 2))), [("not_decided", "/properties/a/$dynamicRef")]);
}

#[test]
fn hostile_schemas_cost_no_more_than_their_steps() {
    let wide =
        |shift: usize| json!({"enum": (shift..10_000 + shift).map(|at| format!("value {at}")).collect::<Vec<_>>()});
    assert_eq!(rules(&backward(wide(0), wide(0))), []);
    assert!(!backward(wide(0), wide(1)).reasons.is_empty());
    let numbers = |shift: usize| json!({"enum": (shift..10_000 + shift).collect::<Vec<_>>()});
    assert!(!backward(numbers(0), numbers(1)).reasons.is_empty());
    // Each level refers twice to the next: as often as two to the power of levels.
    let doubled = |leaf: Value| {
        let level = |at: usize| {
            let next = json!({"$ref": format!("#/$defs/{}", at + 1)});
            (
                at.to_string(),
                json!({"properties": {"a": next, "b": next}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            )
        };
        let mut levels: serde_json::Map<_, _> = (0..60).map(level).collect();
        levels.insert("60".to_owned(), leaf);
        json!({"$ref": "#/$defs/0", "$defs": levels})
    };
    assert!(!backward(doubled(json!({"type": "string"})), doubled(json!({"type": "null"}))).reasons.is_empty());
    let mut deep = (json!({"type": "string"}), json!({"type": "null"}));
    for _ in 0..100 {
        deep = (json!({"items": deep.0}), json!({"items": deep.1}));
    }
    assert!(!backward(deep.0, deep.1).reasons.is_empty());
    let forks = |shift: usize| json!({"allOf": (0..20).map(|at| json!({"anyOf": [{"minimum": at + shift}, {"maxLength": at}]})).collect::<Vec<_>>()});
    assert!(!backward(forks(0), forks(1)).reasons.is_empty());
}

/// What payloads must have is named, and so is all that a schema speaks of that is not known.
#[test]
fn required_names_and_unknown_schemas_count() {
    let meta = "https://json-schema.org/draft/2020-12/schema";
    let node =
        |child: Value| json!({"$dynamicAnchor": "node", "properties": {"value": {"type": "string"}, "child": child}});
    for (old, new) in [
        (json!({"required": ["a"]}), json!({"required": ["a"], "properties": {"a": {"type": "integer"}}})),
        (
            json!({"properties": {"a": {}}, "dependentRequired": {"a": ["b"]}}),
            json!({"properties": {"a": {}, "b": {"type": "integer"}}, "dependentRequired": {"a": ["b"]}}),
        ),
        (node(json!({"$dynamicRef": "#node"})), node(json!({"properties": {"value": {"type": "integer"}}}))),
        (json!({"$ref": meta}), json!({"$ref": meta, "properties": {"title": {"type": "integer"}}})),
        (
            json!({"anyOf": [{"$ref": meta}, true], "unevaluatedProperties": {"type": "integer"}}),
            json!({"additionalProperties": {"type": "integer"}}),
        ),
        (json!({"contains": {"type": "integer"}}), json!({"contains": {"type": "integer"}, "minContains": 1e16})),
    ] {
        let comparison = backward(old.clone(), new.clone());
        assert!(!comparison.reasons.is_empty(), "{old} {new}");
    }
}

#[test]
fn work_with_patterns_is_bounded() {
    let with = |length: u64| {
        let patterns = (0..200).map(|n| (format!("^a{n}(b+c*)+$"), json!({"type": "string", "minLength": length})));
        let named = (0..200).map(|n| (format!("p{n}"), json!({})));
        json!({"patternProperties": patterns.collect::<serde_json::Map<_, _>>(), "properties": named.collect::<serde_json::Map<_, _>>()})
    };
    let comparison = backward(with(1), with(2));
    assert!(comparison.reasons[0].message.contains("too much work"), "{:?}", comparison.reasons[0]);
}
