use serde_json::json;

use super::change::{Decision, Put, Refused, decide};
use super::*;
use crate::domain::event::Append;

fn pattern(name: &str) -> Pattern {
    Pattern::parse(name.to_owned()).expect("a valid pattern")
}

fn event_type(name: &str, version: u32, schema: &str, mode: Mode) -> EventType {
    let settings = Some(Settings { mode, ..Settings::default() });
    let name = pattern(name);
    EventType { name, version, schema: schema.into(), settings, generation: 7, changed_at: Timestamp(0) }
}

const OBJECT: &str = r#"{"type":"object","required":["a"]}"#;

fn catalogue(types: &[EventType], unknown: Unknown) -> Catalogue {
    let (catalogue, errors) = Catalogue::new(unknown).after(types, 7);
    assert_eq!(errors, []);
    catalogue
}

#[test]
fn the_most_specific_type_alone_counts() {
    let names = [">", "lot.>", "lot.*", "lot.bid:*", "lot.bid:placed:*", "lot.bid:placed:now", "*.open", "lot.*.open"];
    let types: Vec<EventType> = names.iter().map(|name| event_type(name, 1, "{}", Mode::Enforce)).collect();
    // The order in which they come does not matter.
    for types in [types.clone(), types.into_iter().rev().collect()] {
        let catalogue = catalogue(&types, Unknown::Allow);
        let governing = |name: &str| {
            let name = EventName::parse(name.to_owned()).expect("a name");
            catalogue.governing(&name).map(|ruling| ruling.name.as_str().to_owned())
        };
        for (name, expected) in [
            ("a", ">"),
            ("lot.open", "lot.*"),
            ("a.open", "*.open"),
            ("lot.a.b", "lot.>"),
            ("lot.a.open", "lot.*.open"),
            ("lot.bid:x", "lot.bid:*"),
            ("lot.bid:placed:x", "lot.bid:placed:*"),
            ("lot.bid:placed:now", "lot.bid:placed:now"),
        ] {
            assert_eq!(governing(name).as_deref(), Some(expected), "{name}");
        }
    }
}

#[test]
fn a_type_that_is_off_hides_wider_ones() {
    let wide = event_type(">", 1, OBJECT, Mode::Enforce);
    let narrow = event_type("a.*", 1, OBJECT, Mode::Off);
    let catalogue = catalogue(&[wide, narrow], Unknown::Reject);
    let refuses = |name: &str| catalogue.judge(&Append::single(NewEvent::plain(name, "1"))).refuses();
    assert!(refuses("a") && !refuses("a.b"));
    assert!(catalogue.judge_event(&NewEvent::own("$sys.x", "1".into())).is_none());
}

#[test]
fn a_change_replaces_and_removes() {
    let first = catalogue(&[event_type("a", 1, OBJECT, Mode::Enforce)], Unknown::Allow);
    let bad = Append::single(NewEvent::plain("a", "{}"));
    assert!(first.judge(&bad).refuses());
    let observed = first.after(&[event_type("a", 1, OBJECT, Mode::Observe)], 8).0.judge(&bad);
    assert_eq!((observed.generation, observed.refuses(), observed.findings.len()), (8, false, 1));
    let gone = first.after(&[EventType { settings: None, ..event_type("a", 1, "", Mode::Off) }], 9).0;
    assert_eq!(gone.judge(&bad), Judgement { generation: 9, findings: Box::default() });
}

#[test]
fn a_schema_whose_numbers_differ_beyond_a_binary_fraction_is_another() {
    let put = |schema: &str| Put {
        condition: Default::default(),
        name: pattern("a"),
        version: None,
        schema: schema.to_owned(),
        settings: Settings { description: "x".to_owned().into(), ..Settings::default() },
    };
    for (old, new) in [
        (r#"{"maximum":100000000000000000001}"#, r#"{"maximum":100000000000000000000}"#),
        (r#"{"const":9007199254740993.5}"#, r#"{"const":9007199254740993.25}"#),
        (r#"{"minimum":0}"#, r#"{"minimum":1e-400}"#),
        (r#"{"maximum":0.1000000000000000055}"#, r#"{"maximum":0.1}"#),
    ] {
        let stored = event_type("a", 1, old, Mode::Enforce);
        let Err(Refused::Incompatible(comparison)) = decide(&put(new), Some(&stored)) else { panic!("{old} {new}") };
        assert!(comparison.reasons.iter().all(|reason| reason.rule == "not_decided"), "{comparison:?}");
        assert!(decide(&put(old), Some(&stored)).is_ok_and(|decision| !decision.is_new_version));
    }
}

#[test]
fn versions_are_made_by_schemas_alone() {
    let put = |version, schema: serde_json::Value, settings| Put {
        condition: Default::default(),
        name: pattern("a"),
        version,
        schema: schema.to_string(),
        settings,
    };
    let stored = event_type("a", 3, r#"{"type":"object"}"#, Mode::Enforce);
    let deleted = EventType { settings: None, ..stored.clone() };
    let same = put(None, json!({"type": "object"}), Settings::default());
    let narrower = put(None, json!({"type": "object", "required": ["a"]}), Settings::default());
    let decided = |version, is_new_version, is_new, changes| Ok(Decision { version, is_new_version, is_new, changes });
    assert_eq!(decide(&same, None), decided(1, true, true, true));
    assert_eq!(decide(&same, Some(&deleted)), decided(4, true, true, true));
    assert_eq!(decide(&same, Some(&stored)), decided(3, false, false, false));
    let observed = Settings { mode: Mode::Observe, ..Settings::default() };
    assert_eq!(
        decide(&put(Some(3), json!({"type": "object"}), observed), Some(&stored)),
        decided(3, false, false, true)
    );
    assert!(matches!(decide(&narrower, Some(&stored)), Err(Refused::Incompatible(_))));
    assert_eq!(decide(&narrower, Some(&deleted)), decided(4, true, true, true));
    for (version, before, current, expected) in
        [(2, Some(&stored), Some(3), 3), (3, Some(&deleted), None, 4), (2, None, None, 1)]
    {
        let put = put(Some(version), json!({}), Settings::default());
        assert_eq!(decide(&put, before), Err(Refused::Version { current, expected }));
    }
    // The stored compatibility decides, not the one that comes with the schema.
    let loose = Settings { compatibility: Compatibility::None, ..Settings::default() };
    assert!(decide(&put(None, json!({"type": "object", "required": ["a"]}), loose.clone()), Some(&stored)).is_err());
    let stored = EventType { settings: Some(loose), ..stored };
    assert_eq!(decide(&narrower, Some(&stored)), decided(4, true, false, true));
}
