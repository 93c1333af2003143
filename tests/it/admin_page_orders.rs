//! `/admin` in a browser: orders and figures stay true whatever happens while somebody looks.

use rustix::process::Signal;
use serde_json::json;

use crate::admin_page::{confirm, fill, open, open_at, press, said, show, shows, with_bank};
use crate::support::service::Delivery;
use crate::support::tcp_proxy::{Cut, TcpProxy};
use crate::support::{Backend, Server, Service, eventually};

/// The figure that the dialog shows.
const FIGURE: &str = "document.querySelector('dialog[open] .figure').textContent";

#[test]
fn an_order_does_what_was_counted() {
    let bank = Service::start();
    bank.answer(422);
    let server = with_bank(&bank, "");
    let wanted = server.publish("a.b", json!({}));
    server.publish("a.c", json!({}));
    let mut page = open(&server, "");
    show(&mut page, "dead?service=bank");
    shows(&mut page, "a.c");
    press(&mut page, "main", "Redrive all that match");
    fill(&mut page, "event_name", "a.b");
    press(&mut page, "dialog[open]", "Count first");
    page.wait_until(&format!("{FIGURE} == '1 would be touched'"));

    // The view is painted anew behind the dialog. What was typed stays.
    server.publish("a.d", json!({}));
    shows(&mut page, "a.d");
    let typed = "document.querySelector('dialog[open] [name=event_name]').value";
    assert_eq!(page.evaluate(typed), "a.b");
    assert_eq!(page.evaluate(FIGURE), "1 would be touched");

    // A figure is void once something else is typed.
    fill(&mut page, "event_name", "a.*");
    fill(&mut page, "typed-name", "bank");
    page.wait_until(&format!("{FIGURE}.startsWith('Count again')"));
    assert_eq!(page.evaluate("document.querySelector('dialog[open] .danger').disabled"), json!(true));
    fill(&mut page, "event_name", "a.b");
    press(&mut page, "dialog[open]", "Count again");
    page.wait_until(&format!("{FIGURE} == '1 would be touched'"));

    bank.answer(200);
    confirm(&mut page, "Redrive all that match", "bank");
    said(&mut page, "Under way");
    bank.wait_for_accepted(&[wanted]);
    eventually("the job is done", || {
        let jobs = server.request("GET", "/admin/jobs").bearer(server.admin_token()).send().data();
        (jobs[0]["state"] == "done").then_some(())
    });
    assert_eq!(bank.accepted(), [wanted]);
}

#[test]
fn a_breaker_is_opened_and_reset() {
    let bank = Service::start();
    let server = with_bank(&bank, "");
    let mut page = open(&server, "");
    show(&mut page, "services/bank");
    press(&mut page, "main", "Open");
    confirm(&mut page, "Open", "bank");
    page.wait_until("document.querySelector('dialog[open]').innerText.includes('Close')");
    press(&mut page, "dialog[open]", "Close");
    shows(&mut page, "its breaker is forced open");
    let kept = server.publish("a.b", json!({}));
    press(&mut page, "main", "Reset");
    confirm(&mut page, "Reset", "bank");
    let deliveries = bank.wait_until("it is delivered", |all| all.iter().any(Delivery::is_accepted));
    assert_eq!(deliveries.len(), 1, "none while the breaker was open");
    assert_eq!(bank.accepted(), [kept]);
}

/// The values of two of them are the same number for a browser.
#[test]
fn all_instances_that_match_are_told_and_no_other() {
    const NEIGHBOUR: &str = "12345678901234567890124";
    let bank = Service::start();
    bank.answer(422);
    let server = with_bank(&bank, "");
    let value = |n: usize| if n == 0 { "12345678901234567890123".to_owned() } else { n.to_string() };
    let event = |value: &str| format!(r#"{{"event_name":"order.made","payload":{{"id":{value}}}}}"#);
    let count = 1_100;
    let mut events: Vec<String> = (0..count).map(|n| event(&value(n))).collect();
    events.push(event(NEIGHBOUR));
    assert_eq!(server.post("/publish/batch", format!("[{}]", events.join(","))).status, 200);
    let counts = |state: &str| {
        let found = server.request("GET", "/metrics").send();
        let series = format!("event_handler_sagas{{saga=\"pay\",state=\"{state}\"}} ");
        found.text().lines().find_map(|line| line.strip_prefix(&series)?.parse::<usize>().ok()).unwrap_or(0)
    };
    eventually("all need an operator", || (counts("needs_operator") == count + 1).then_some(()));
    let mut page = open(&server, "");

    show(&mut page, "sagas?correlation=12345678901234567890123");
    shows(&mut page, "12345678901234567890123");
    press(&mut page, "main", "Abort all that match");
    fill(&mut page, "reason", "test");
    press(&mut page, "dialog[open]", "Count first");
    page.wait_until(&format!("{FIGURE} == '1 would be told, to 0 it does not fit'"));
    confirm(&mut page, "Abort all that match", "sagas");
    said(&mut page, "1 told");
    eventually("it is aborted", || (counts("aborted") == 1).then_some(()));
    let left = server.get(&format!("/sagas?state=needs_operator&correlation={NEIGHBOUR}")).data();
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{left}");

    show(&mut page, "sagas?state=needs_operator");
    press(&mut page, "main", "Abort all that match");
    fill(&mut page, "reason", "test");
    confirm(&mut page, "Abort all that match", "sagas");
    said(&mut page, "1,100 told");
    eventually("all are aborted", || (counts("aborted") == count + 1).then_some(()));
}

#[test]
fn a_node_that_is_frozen_is_not_said_to_be_well() {
    let server = Server::start(Backend::Sqlite);
    let mut page = open(&server, "");
    shows(&mut page, "All is well.");
    server.signal(Signal::STOP);
    page.wait_until("!document.querySelector('main').innerText.includes('All is well.')");
    page.wait_until("document.querySelector('main [role=alert]') != null");
    server.signal(Signal::CONT);
    shows(&mut page, "All is well.");
}

#[test]
fn the_tail_misses_nothing_while_it_is_cut_off() {
    let server = Server::start(Backend::Sqlite);
    let proxy = TcpProxy::to(server.addr());
    let mut page = open_at(&proxy.addr().to_string(), &server);
    show(&mut page, "tail?event_name=cut.*");
    shows(&mut page, "live");
    server.publish("cut.before", json!({}));
    shows(&mut page, "cut.before");
    proxy.cut(Cut::Rst);
    page.wait_until("document.querySelector('main [role=status]').textContent != 'live'");
    let ids: Vec<_> = (0..3).map(|n| server.publish("cut.meanwhile", json!({ "n": n }))).collect();
    proxy.heal();
    page.wait_until("document.querySelector('main [role=status]').textContent == 'live'");
    page.wait_until("document.querySelectorAll('ol.tail li').length == 4");
    let newest_first: Vec<String> = ids.iter().rev().map(ToString::to_string).collect();
    let shown = page.evaluate("[...document.querySelectorAll('ol.tail a')].slice(0, 3).map((one) => one.textContent)");
    assert_eq!(shown, json!(newest_first));
}

#[test]
fn a_payload_of_many_levels_is_shown_as_it_is() {
    let server = Server::start(Backend::Sqlite);
    let payload = format!("{}1{}", r#"{"a":["#.repeat(400), "]}".repeat(400));
    let event = format!(r#"{{"event_name":"deep","payload":{payload}}}"#);
    let id = server.post("/publish", event).event_id();
    let mut page = open(&server, "");
    show(&mut page, "events");
    shows(&mut page, "deep");
    show(&mut page, &format!("events/{id}"));
    page.wait_until(&format!("document.querySelector('[aria-label=Payload]')?.textContent == {}", json!(payload)));
}
