//! The official test suite of JSON Schema, and what it does not ask.

#[path = "../../../tests/support/json_schema_suite.rs"]
mod suite;

use super::judge::judge_within;
use super::{InvalidKind, Refusal, Schema};

/// Runs the cases of a draft; returns how many there were and how many were left out.
fn run_suite(text: &str, schema_uri: &str) -> (usize, usize) {
    let (mut count, mut excluded, mut wrong) = (0, 0, Vec::new());
    for (file, groups) in &suite::read(text) {
        for group in groups {
            let description = &group.description;
            let schema = match Schema::compile(&group.schema_text(schema_uri)) {
                Ok(schema) => schema,
                Err(invalid) if suite::is_excluded(&invalid.message) => {
                    excluded += group.tests.len();
                    continue;
                }
                Err(invalid) => {
                    wrong.push(format!("{file}: {description}: {invalid:?}"));
                    continue;
                }
            };
            for case in &group.tests {
                count += 1;
                let verdict = schema.judge(case.data.get());
                let told_nothing = matches!(&verdict, Err(Refusal::Violations(all)) if all.is_empty());
                if verdict.is_ok() != case.valid || told_nothing {
                    wrong.push(format!("{file}: {description}: {}: {verdict:?}", case.description));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    (count, excluded)
}

#[test]
fn the_official_cases_of_2020_12() {
    let text = include_str!("../../../tests/data/json-schema-test-suite/2020-12.json");
    assert_eq!(run_suite(text, "https://json-schema.org/draft/2020-12/schema"), (1_250, 49));
}

#[test]
fn the_official_cases_of_draft_07() {
    let text = include_str!("../../../tests/data/json-schema-test-suite/draft-07.json");
    assert_eq!(run_suite(text, "http://json-schema.org/draft-07/schema#"), (904, 23));
}

fn schema(text: &str) -> Schema {
    Schema::compile(text).unwrap_or_else(|invalid| panic!("{text}: {invalid:?}"))
}

/// What is told of a payload: paths and messages.
fn told(schema: &Schema, payload: &str) -> Vec<(String, String, String)> {
    let Err(Refusal::Violations(violations)) = schema.judge(payload) else { panic!("{payload} is not refused") };
    violations.into_iter().map(|one| (one.instance_path, one.schema_path, one.message)).collect()
}

#[test]
fn schemas_that_say_the_same_are_told_apart() {
    let schema = schema(
        r#"{"properties": {"a": {"minimum": 5}, "b": {"minimum": 5.0}, "c": {"maximum": -5}, "d": {"minimum": 5}}}"#,
    );
    let told = told(&schema, r#"{"a": 1, "b": 1, "c": 1, "d": 1}"#);
    let wanted = [
        ("/a", "/properties/a/minimum", "1 is less than 5"),
        ("/b", "/properties/b/minimum", "1 is less than 5.0"),
        ("/c", "/properties/c/maximum", "1 is greater than -5"),
        ("/d", "/properties/d/minimum", "1 is less than 5"),
    ];
    assert_eq!(told, wanted.map(|(instance, schema, message)| (instance.into(), schema.into(), message.into())));
}

#[test]
fn every_violation_is_told_with_its_paths() {
    let schema = schema(
        r##"{"type": "object", "required": ["id", "lines"], "additionalProperties": false, "properties": {
            "id": {"type": "string", "minLength": 3}, "a/b~c": {"const": 1},
            "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}},
            "$defs": {"line": {"type": "object", "properties": {"count": {"type": "integer", "minimum": 1}}}}}"##,
    );
    assert_eq!(schema.judge(r#"{"id":"abc","lines":[{"count":1.0}]}"#), Ok(()));
    let told = told(&schema, r#"{"id":"ab","lines":[{"count":1},{"count":-0.5},{"count":"x"}],"a/b~c":2,"more":null}"#);
    let paths: Vec<_> = told.iter().map(|(instance, schema, _)| (instance.as_str(), schema.as_str())).collect();
    assert_eq!(
        paths,
        [
            ("/id", "/properties/id/minLength"),
            ("/lines/1/count", "/$defs/line/properties/count/type"),
            ("/lines/2/count", "/$defs/line/properties/count/type"),
            ("/a~1b~0c", "/properties/a~1b~0c/const"),
            ("/more", "/additionalProperties"),
        ]
    );
}

#[test]
fn at_most_twenty_violations_are_told_and_their_texts_are_cut() {
    let schema = schema(r#"{"additionalProperties": {"type": "null"}}"#);
    let members: Vec<_> = (0..50).map(|number| format!("\"{}{number}\":1", "é".repeat(2_000))).collect();
    let told = told(&schema, &format!("{{{}}}", members.join(",")));
    assert_eq!(told.len(), 20);
    assert!(told.iter().all(|(instance, ..)| instance.len() <= 1024 && instance.starts_with("/éé")));
}

#[test]
fn a_key_that_is_there_twice_is_told_with_its_object() {
    let schema = schema(r#"{"properties": {"a": {"properties": {"a": true}}, "b": true}}"#);
    for (payload, path, key) in [
        (r#"{"a":{"a":1},"a":2}"#, "", "a"),
        (r#"{"b":[1,{"x":0,"y":{"a":1,"\u0061":2}}]}"#, "/b/1/y", "a"),
        (r#"{"1":0,"2":0,"3":0,"4":0,"5":0,"6":0,"7":0,"8":0,"9":0,"3":1}"#, "", "3"),
        (r#"[{"z":1,"z":1}]"#, "/0", "z"),
        (r#"{"a":{"a":1},"b":1,"b":2}"#, "", "b"),
    ] {
        let refusal = Refusal::DuplicateKey { path: path.to_owned(), key: key.to_owned() };
        assert_eq!(schema.judge(payload), Err(refusal), "{payload}");
    }
    assert_eq!(schema.judge(r#"{"a":{"a":1},"b":{"a":1,"b":{"a":2}}}"#), Ok(()));
}

#[test]
fn numbers_are_judged_as_they_are_written() {
    let exact = schema(r#"{"minimum": 9007199254740993, "maximum": 1e400, "multipleOf": 0.1}"#);
    for (number, is_valid) in [
        ("9007199254740993", true),
        ("9007199254740992", false),
        ("9007199254740992.9", false),
        ("9007199254740993.05", false),
        ("1e400", true),
        ("1.1e400", false),
        ("1e999999999", false),
    ] {
        assert_eq!(exact.judge(number).is_ok(), is_valid, "{number}");
    }
    let listed = schema(r#"{"enum": [0.1, 12345678901234567890123, {"a": [1.0]}]}"#);
    for payload in ["1e-1", "12345678901234567890123.0", r#"{"a":[1]}"#] {
        assert_eq!(listed.judge(payload), Ok(()), "{payload}");
    }
    assert!(listed.judge("12345678901234567890124").is_err() && listed.judge(r#"{"a":[1.5]}"#).is_err());
    assert!(told(&exact, "1e99999999999999999999")[0].2.contains("exponent"));
    assert!(schema(r#"{"uniqueItems": true}"#).judge("[1, 1.0]").is_err());
    assert!(schema(r#"{"type": "integer"}"#).judge("1.5e1").is_ok());
}

#[test]
fn what_is_no_schema_is_refused_with_its_place() {
    for (text, field) in [
        ("{", ""),
        ("12", ""),
        (r#"{"type": "text"}"#, "/type"),
        (r#"{"type": ["string", 1]}"#, "/type/1"),
        (r#"{"properties": {"a": {"minLength": -1}}}"#, "/properties/a/minLength"),
        (r#"{"properties": {"a": 1}}"#, "/properties/a"),
        (r#"{"items": [true]}"#, "/items"),
        (r#"{"allOf": []}"#, "/allOf"),
        (r#"{"required": "a"}"#, "/required"),
        (r#"{"multipleOf": 0}"#, "/multipleOf"),
        (r#"{"pattern": "(?=a)"}"#, "/pattern"),
        (r#"{"patternProperties": {"[": true}}"#, "/patternProperties/["),
        (r##"{"$ref": "#/$defs/none"}"##, "/$ref"),
        (r#"{"$ref": "https://example.org/other"}"#, "/$ref"),
        (r##"{"$defs": {"a": {"$ref": "#/$defs/a"}}}"##, "/$defs/a"),
        (r##"{"anyOf": [{"type": "null"}, {"not": {"$ref": "#"}}]}"##, ""),
        (r#"{"$schema": "http://json-schema.org/draft-04/schema#"}"#, "/$schema"),
        (r#"{"properties": {"a": true, "a": false}}"#, "/properties/a"),
        (r#"{"$defs": {"unused": {"enum": 1}}}"#, "/$defs/unused/enum"),
    ] {
        let invalid = Schema::compile(text).expect_err(text);
        assert_eq!((invalid.field.as_str(), invalid.kind), (field, InvalidKind::Malformed), "{text}: {invalid:?}");
    }
}

#[test]
fn a_schema_that_is_too_large_or_too_deep_is_too_costly() {
    let deep = format!("{}true{}", r#"{"not":"#.repeat(200), "}".repeat(200));
    let wide = format!(r#"{{"anyOf":[{}]}}"#, vec!["{}"; 30_000].join(","));
    let patterns: Vec<_> = (0..500).map(|number| format!(r#"{{"pattern":"^\\p{{L}}{{2}}{number}$"}}"#)).collect();
    let patterns = format!(r#"{{"anyOf":[{}]}}"#, patterns.join(","));
    let large = r#"{"pattern":"^(?:\\p{L}{50}){50}$"}"#.to_owned();
    for text in [deep, wide, patterns, large] {
        assert_eq!(Schema::compile(&text).expect_err("too costly").kind, InvalidKind::TooCostly);
    }
}

/// Each schema would cost more than any machine has, if its work were not counted.
#[test]
fn work_is_counted_and_bounded() {
    let doubled: Vec<_> = (0..60)
        .map(|level| {
            format!(r##""{level}":{{"anyOf":[{{"$ref":"#/$defs/{0}"}},{{"$ref":"#/$defs/{0}"}}]}}"##, level + 1)
        })
        .collect();
    let exponential = format!(r##"{{"$ref":"#/$defs/0","$defs":{{{},"60":false}}}}"##, doubled.join(","));
    let slow = r#"{"items": {"pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"}}"#.to_owned();
    let texts = format!("[{}]", vec![format!("\"{}\"", "a".repeat(20_000)); 50].join(","));
    let many = format!(
        r#"{{"items": {{"allOf": [{}]}}}}"#,
        (0..2_000).map(|number| format!(r#"{{"not":{{"const":{number}.5}}}}"#)).collect::<Vec<_>>().join(",")
    );
    let numbers = format!("[{}]", (0..20_000).map(|number| number.to_string()).collect::<Vec<_>>().join(","));
    let recursive =
        r##"{"anyOf": [{"items": {"$ref": "#"}, "minItems": 1}, {"items": {"$ref": "#"}, "maxItems": 0}, false]}"##;
    let nested = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    // Each look goes over a long text.
    let looks = |at_the_end: &str| {
        let doubled = (0..14).map(|level| {
            format!(r##""{level}":{{"allOf":[{{"$ref":"#/$defs/{0}"}},{{"$ref":"#/$defs/{0}"}}]}}"##, level + 1)
        });
        let doubled: Vec<_> = doubled.collect();
        format!(r##"{{"$ref":"#/$defs/0","$defs":{{{},"14":{at_the_end}}}}}"##, doubled.join(","))
    };
    let long = "1".repeat(100_000);
    let [integers, listed] = [r#"{"type":"integer"}"#, &format!(r#"{{"const":"{long}"}}"#)].map(looks);
    let (unique, quoted) = (looks(r#"{"uniqueItems":true}"#), format!("\"{long}\""));
    let pair = format!(r#"["{long}1","{long}2"]"#);
    for (schema_text, payload, is_over) in [
        (exponential.as_str(), "1", true),
        (&integers, &long, true),
        (&listed, &quoted, true),
        (&unique, &pair, true),
        (&slow, &texts, false),
        (&many, &numbers, true),
        (recursive, &nested, false),
    ] {
        let schema = schema(schema_text);
        let (steps, verdict) = judge_within(&schema.0, payload, 2_000_000);
        assert_eq!(judge_within(&schema.0, payload, 2_000_000), (steps, verdict.clone()), "the same every time");
        let message = verdict.err().map(|refusal| format!("{refusal:?}")).unwrap_or_default();
        assert_eq!(message.contains("too much work"), is_over, "{steps} steps: {message}");
    }
    assert!(told(&schema("{}"), &format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)))[0].2.contains("levels"));
}

#[test]
fn what_goes_too_deep_is_refused_whatever_is_judged_beside_it() {
    let levels = r##"{"allOf":[{"allOf":[{"allOf":[{"allOf":[{"items":{"$ref":"#/$defs/d"}}]}]}]}]}"##;
    let payload = format!(r#"{{"x":{}{}}}"#, "[".repeat(110), "]".repeat(110));
    for beside in ["{}", r#"{"maxLength":9}"#] {
        let text = format!(
            r##"{{"not":{{"required":["x"],"properties":{{"x":{{"$ref":"#/$defs/d"}}}}}},"propertyNames":{beside},"$defs":{{"d":{levels}}}}}"##
        );
        assert!(told(&schema(&text), &payload)[0].2.contains("too deep"), "{beside}");
    }
}

#[test]
fn any_text_is_judged_without_a_panic() {
    let schema = schema(r#"{"additionalProperties": {"minimum": 1}}"#);
    let payload = r#"{"a\u00e9\ud83d\ude00\n":[1.5e-3,-0,true,null,"\u0000"],"b":{"c":12}}"#;
    assert_eq!(schema.judge(payload), Ok(()));
    for end in (0..payload.len()).filter(|end| payload.is_char_boundary(*end)) {
        assert!(schema.judge(&payload[..end]).is_err(), "{}", &payload[..end]);
    }
    for text in ["", "nul", "01", "[1,]", "{\"a\":1,}", "\"\u{1}\"", "\"\\x\"", "1 2", "{a:1}", "[1 2]", "{\"a\" 1}"] {
        assert!(schema.judge(text).is_err(), "{text}");
    }
}

#[test]
fn half_of_a_surrogate_pair_is_no_text() {
    let schema = schema("{}");
    for payload in [r#""\ud800""#, r#"["\udfff"]"#, r#"{"\ud800":1,"\ud801":2}"#, r#""\ud83d\ud83d\ude00""#] {
        let told = told(&schema, payload);
        assert_eq!(told.len(), 1, "{payload}: {told:?}");
        assert!(told[0].2.contains("surrogate"), "{payload}: {told:?}");
    }
    assert!(Schema::compile(r#"{"const": "\ud800"}"#).is_err());
}

#[test]
fn characters_are_counted_and_not_bytes() {
    let (least, most) = (schema(r#"{"minLength": 3}"#), schema(r#"{"maxLength": 3}"#));
    for (text, count) in
        [("", 0), ("ab", 2), ("abc", 3), ("abcd", 4), ("éé", 2), ("😀😀", 2), ("😀😀😀", 3), ("é😀aé", 4)]
    {
        let payload = format!("\"{text}\"");
        assert_eq!(least.judge(&payload).is_ok(), count >= 3, "{text}");
        assert_eq!(most.judge(&payload).is_ok(), count <= 3, "{text}");
    }
}
