//! Sagas: the tools with which definitions are written.

use std::path::PathBuf;

use crate::support::Server;
use crate::support::program::root;
use crate::support::server::Builder;

const AUCTION: &str = include_str!("../../examples/sagas/settle-auction.toml");

fn example(name: &str) -> PathBuf {
    root().join("examples/sagas").join(name)
}

fn sagas(args: &[&str]) -> Builder {
    args.iter().fold(Server::builder().arg("sagas"), |builder, arg| builder.arg(arg))
}

/// What is printed, its exit code, and what standard error says.
fn run(builder: &Builder) -> (Vec<String>, Option<i32>, String) {
    let output = builder.run();
    let lines = String::from_utf8(output.stdout).expect("text").lines().map(|line| line.trim().to_owned()).collect();
    (lines, output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

fn simulate(events: &str) -> Vec<String> {
    let builder = sagas(&["simulate", &example("settle-auction.toml").display().to_string()]);
    let (lines, code, errors) = run(&builder.arg(&example(events).display().to_string()));
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    lines
}

#[test]
fn a_simulation_shows_each_step_in_virtual_time() {
    let lines = simulate("settled.ndjson");
    let expected = [
        "0s  settle-auction 7  begins",
        "0s  settle-auction 7    -> POST shape-l2/transfers {\"auction\":7,\"to\":\"0xabc\"}",
        "0s  settle-auction 7  transfer waits for its reply, until 10m",
        "3m  settle-auction 7  transfer has succeeded",
        "3m  event 3  auction.settled {\"auction_id\":7,\"winner\":\"ada\"}",
        "3m  settle-auction 7  is completed",
    ];
    let places: Vec<_> = expected.iter().map(|line| lines.iter().position(|printed| printed == line)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} {lines:#?}");
}

#[test]
fn a_simulation_undoes_what_may_have_happened() {
    let lines = simulate("refused.ndjson");
    let posts: Vec<_> = lines.iter().filter_map(|line| line.split_once("-> ")).map(|(_, request)| request).collect();
    let probe = "GET shape-l2/transfers/00000000-0000-7000-8000-000000000001";
    let expected = [
        "POST auction-manager/reservations {\"auction\":8,\"of\":\"ada\"}",
        "POST shape-l2/transfers {\"auction\":8,\"to\":\"0xabc\"}",
        probe,
        probe,
        "POST auction-manager/reservations/cancel {\"auction\":8}",
    ];
    assert_eq!(posts, expected, "a transfer that was not done is not undone");
    assert_eq!(lines.last().map(String::as_str), Some("5s  settle-auction 8  is compensated"));
}

#[test]
fn a_definition_that_cannot_be_run_is_refused_with_file_place_and_reason() {
    let check = |text: &str, any_service: bool| {
        let args: &[&str] = if any_service { &["check", "--any-service", "s.toml"] } else { &["check", "s.toml"] };
        run(&sagas(args).file("s.toml", text))
    };
    let (lines, code, _) = check(AUCTION, true);
    assert_eq!(
        (lines.join("\n").as_str(), code),
        ("settle-auction version 1: 3 steps, begins with auction.ended", Some(0))
    );
    for (text, any_service, said) in [
        (AUCTION.to_owned(), false, "s.toml: sagas[0].steps[0].call.service: there is no service \"auction-manager\""),
        (
            AUCTION.replace("timeout = \"10m\"", "timeout = \"soon\""),
            true,
            "s.toml: sagas[0].steps[1].await.timeout: must be",
        ),
        (
            format!("{AUCTION}\n{AUCTION}"),
            true,
            "s.toml: sagas[1].version: 1 of saga \"settle-auction\" is there already",
        ),
        (format!("x = 1\n{AUCTION}"), true, "s.toml: x: is unknown"),
        ("sagas = 7".to_owned(), true, "s.toml: sagas: must be tables"),
        ("[[sagas]]\nname = 7".to_owned(), true, "s.toml: sagas[0].saga: invalid type"),
        ("[[".to_owned(), true, "s.toml: TOML parse error"),
    ] {
        let (lines, code, errors) = check(&text, any_service);
        assert_eq!((code, lines.len()), (Some(78), 0), "{errors}");
        assert!(errors.contains(said) && errors.lines().count() == 1, "{errors:?} and not {said:?}");
    }
}

#[test]
fn a_line_that_is_no_event_is_refused_with_its_number() {
    for (events, said) in [
        ("\n{\"event_name\":\"\"}", "line 2 of e.ndjson"),
        ("{\"step\":\"nothing\"}", "line 1 of e.ndjson: there is no step \"nothing\""),
        ("{\"after\":\"soon\"}", "line 1 of e.ndjson: after: "),
        ("[]", "line 1 of e.ndjson: "),
    ] {
        let builder = sagas(&["simulate", "s.toml", "e.ndjson"]).file("s.toml", AUCTION).file("e.ndjson", events);
        let (_, code, errors) = run(&builder);
        assert!(code == Some(2) && errors.contains(said), "{events}: {code:?} {errors:?}");
    }
}
