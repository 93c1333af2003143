//! `/admin` in a browser: what operators do with it, and what it never does.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::browser::Page;
use crate::support::http::{Connection, Request};
use crate::support::program::{axe, root};
use crate::support::service::{Answer, Delivery};
use crate::support::{Backend, Server, Service, eventually};

/// Sagas that end with an operator, since the bank refuses.
const SAGAS: &str = r#"
[[sagas]]
name = "pay"
version = 1
trigger = { event = "order.made" }
correlation = "/id"
[[sagas.steps]]
name = "settle"
call = { service = "bank", path = "/settle", body = { order = "${trigger.payload.id}" } }
on_failure = "needs_operator"
"#;

/// The views of the page, by what the page is asked for after `#/`.
const VIEWS: [&str; 18] = [
    "overview",
    "services",
    "services/bank",
    "dead",
    "dead?service=bank",
    "events",
    "tail?event_name=%3E",
    "explain?event_name=a.b",
    "subscribers",
    "subscribers?show=durable",
    "subscribers?show=patterns",
    "sagas",
    "sagas?state=needs_operator",
    "types",
    "sync",
    "nodes",
    "actors",
    "system",
];

/// Text that would become an element, if it did not stay text.
const HOSTILE: &str = "<img src=x onerror=window.hurt=1><script>window.hurt=1</script>";

/// Notes what the policy of the page refuses.
const REPORTS: &str = "window.reports = []; addEventListener('securitypolicyviolation', \
                       (event) => reports.push(event.violatedDirective + ' ' + event.blockedURI + ' ' + event.sample))";

/// A server below `base` that delivers to the bank, with the saga.
pub fn with_bank(bank: &Service, base: &str) -> Server {
    let builder = Server::builder().env("EVENT_HANDLER__SERVER__BASE_PATH", base);
    let builder = builder.backend(Backend::Sqlite).file("c.toml", SAGAS).env("EVENT_HANDLER_CONFIG", "c.toml");
    let server = bank.configure(builder, "bank", &[("max_attempts", "1"), ("routes", "a.*")]).start();
    eventually("the saga is declared", || {
        let asked = server.request("GET", &format!("{base}/sagas/definitions")).bearer(server.admin_token());
        (asked.send().data().as_array()?.len() == 1).then_some(())
    });
    server
}

pub fn open(server: &Server, base: &str) -> Page {
    open_at(&format!("{}{base}", server.addr()), server)
}

/// Opens the page of a server by another address.
pub fn open_at(addr: &str, server: &Server) -> Page {
    let mut page = Page::open("about:blank#new");
    page.run_first(REPORTS);
    let token = server.admin_token().expect("made");
    page.navigate(&format!("http://{addr}/admin#token={token}"));
    page.wait_until("document.querySelector('main[data-view=overview] .tile') != null");
    page
}

pub fn show(page: &mut Page, view: &str) {
    let name = view.split(['/', '?']).next().unwrap_or_default();
    page.evaluate(&format!("location.hash = {}", json!(format!("#/{view}"))));
    page.wait_until(&format!("document.querySelector('main').dataset.view == {}", json!(name)));
    page.wait_until("![...document.querySelectorAll('main .soft')].some((one) => one.textContent == 'Loading')");
}

pub fn shows(page: &mut Page, text: &str) {
    page.wait_until(&format!("document.querySelector('main').innerText.includes({})", json!(text)));
}

pub fn press(page: &mut Page, within: &str, label: &str) {
    let found = format!(
        "[...document.querySelectorAll({})].find((button) => button.textContent == {} && !button.disabled)",
        json!(format!("{within} button")),
        json!(label)
    );
    page.wait_until(&format!("{found} != null"));
    page.evaluate(&format!("{found}.click()"));
}

/// Types a name into the dialog that is open, and confirms.
pub fn confirm(page: &mut Page, label: &str, name: &str) {
    fill(page, "typed-name", name);
    press(page, "dialog[open]", label);
}

/// Types into a field of the dialog that is open.
pub fn fill(page: &mut Page, name: &str, text: &str) {
    let field = format!("document.querySelector('dialog[open] [name={name}]')");
    page.wait_until(&format!("{field} != null"));
    page.evaluate(&format!(
        "{field}.value = {}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))",
        json!(text)
    ));
}

pub fn said(page: &mut Page, text: &str) {
    page.wait_until(&format!("document.querySelector('dialog[open]').innerText.includes({})", json!(text)));
    press(page, "dialog[open]", "Close");
    page.wait_until("document.querySelector('dialog') == null");
}

/// What the page has asked for so far: addresses and bytes of bodies as they came over the network.
fn asked(page: &mut Page) -> Vec<(String, u64)> {
    let entries = "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]";
    let all = page.evaluate(&format!("{entries}.map((entry) => [entry.name, entry.encodedBodySize])"));
    serde_json::from_value(all).expect("names and sizes")
}

#[test]
fn operators_find_what_was_not_delivered_and_mend_it() {
    let bank = Service::start();
    bank.answer(422);
    let server = with_bank(&bank, "/x");
    let post = |path: &str, body: &str| {
        server.request("POST", path).body(body).header("Content-Type", "application/json").send()
    };
    let big = r#"{"n":12345678901234567890123,"f":1e400,"s":"\u003cb>"}"#;
    assert_eq!(post("/x/publish", &format!(r#"{{"event_name":"a.b","payload":{big}}}"#)).status, 200);
    let mut page = open(&server, "/x");

    // At the first look: few requests, few bytes, nothing from elsewhere.
    page.wait_until("document.querySelectorAll('.plots canvas').length == 4");
    let first = asked(&mut page);
    let origin = format!("http://{}/x/", server.addr());
    assert!(first.iter().all(|(name, _)| name.starts_with(&origin)), "{first:?}");
    let files: Vec<_> =
        first.iter().filter(|(name, _)| name.contains("/admin/page/") || name.contains("/admin#")).collect();
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    eprintln!("the first look: {} files, {bytes} bytes", files.len());
    assert!(files.len() <= 15 && bytes <= 80 * 1024, "{bytes} bytes: {files:?}");

    // From the overview to the dead letter, to its payload and its trace.
    shows(&mut page, "bank: 1 dead delivery.");
    page.evaluate("[...document.querySelectorAll('.problems a')].find((a) => a.hash == '#/dead?service=bank').click()");
    shows(&mut page, "rejected");
    page.evaluate("document.querySelector('main td a').click()");
    page.wait_until(&format!("document.querySelector('[aria-label=Payload]')?.textContent == {}", json!(big)));
    shows(&mut page, "bank, attempt 1: answered 422");
    shows(&mut page, "bank: dead, rejected");

    // What is typed wrong does nothing. What is counted is told.
    bank.answer(200);
    show(&mut page, "dead?service=bank");
    press(&mut page, "main", "Redrive all that match");
    press(&mut page, "dialog[open]", "Count first");
    page.wait_until("document.querySelector('dialog[open] .figure').textContent == '1 would be touched'");
    page.evaluate("document.querySelector('dialog[open] [name=typed-name]').value = 'bang'");
    assert_eq!(page.evaluate("document.querySelector('dialog[open] .danger').disabled"), json!(true));
    confirm(&mut page, "Redrive all that match", "bank");
    said(&mut page, "Under way");
    bank.wait_until("it is delivered", |all| all.iter().any(Delivery::is_accepted));

    // Whom an event would reach.
    show(&mut page, "explain?event_name=b.c");
    shows(&mut page, "no route matches");
    assert_eq!(page.evaluate("reports"), json!([]));
}

#[test]
fn the_tail_paints_seldom_and_keeps_little() {
    let server = Server::start(Backend::Sqlite);
    let mut page = open(&server, "");
    show(&mut page, "tail?event_name=load.*");
    shows(&mut page, "live");
    let batch = json!(vec![json!({"event_name": "load.made", "payload": {"text": "x".repeat(100)}}); 5000]);
    let (begin, batches) = (Instant::now(), 6);
    for _ in 0..batches {
        assert_eq!(server.post("/publish/batch", &batch).status, 200);
    }
    let last = server.get("/events?limit=1").data()[0]["id"].clone();
    page.wait_until(&format!("document.querySelector('ol.tail a').textContent == {}", json!(last.to_string())));
    let took = begin.elapsed();
    let shown = page.evaluate(
        "[document.querySelectorAll('ol.tail li').length, Number(document.querySelector('[data-paints]').dataset.paints),
          document.querySelector('[data-paints]').textContent]",
    );
    eprintln!("{} events in {took:?}: rows, paints and what is said: {shown}", batches * 5000);
    assert_eq!(shown[0], 500);
    assert!(shown[1].as_f64().expect("paints") <= took.as_secs_f64() * 10.0 + 2.0, "{shown} in {took:?}");
    assert!(shown[2].as_str().expect("text").ends_with("skipped"), "{shown}");

    press(&mut page, "main", "Pause");
    let shown_last = last.to_string();
    server.publish("load.made", json!({"n": 1}));
    eventually("the server has told of it", || {
        (page.evaluate("document.querySelector('main [role=status]').textContent") == "paused").then_some(())
    });
    assert_eq!(page.evaluate("document.querySelector('ol.tail a').textContent"), json!(shown_last));
    press(&mut page, "main", "Pause");
    shows(&mut page, r#"{"n":1}"#);
}

/// Every field that anybody outside can set has text that would be an element. And no view has barriers.
#[test]
fn every_view_keeps_text_as_text_and_has_no_barriers() {
    let bank = Service::answering(|_| Answer::Full(422, Vec::new(), HOSTILE.to_owned()));
    let server = with_bank(&bank, "");
    let mut id = 0;
    for name in ["a.b", "order.made", "a.<svg/onload=hurt()"] {
        let event = json!({
            "event_name": name, "source": HOSTILE, "key": HOSTILE, "metadata": { "x": HOSTILE },
            "payload": { "id": HOSTILE, "__proto__": HOSTILE, "type": "img", "props": { "src": "x" } },
        });
        id = server.post("/publish", event).event_id();
    }
    let mut ws = server.ws();
    ws.request(json!({"action": "subscribe", "event_name": "<svg/onload=hurt()", "durable": "d1", "id": 1}));
    ws.request(json!({"action": "subscribe", "event_name": "a.<b", "id": 2}));
    let stopped = json!({ "state": "maintenance", "reason": HOSTILE });
    assert_eq!(server.request("PUT", "/system").bearer(server.admin_token()).json(&stopped).send().status, 202);
    let saga = eventually("the saga needs an operator", || {
        let sagas = server.get("/sagas?state=needs_operator").data();
        Some(sagas[0]["id"].as_str()?.to_owned())
    });
    let mut page = open(&server, "");
    let kind = json!({ "schema": { "title": HOSTILE }, "description": HOSTILE, "owner": HOSTILE, "mode": "observe" });
    let put = server.request("PUT", "/event-types/a.%3Csvg").bearer(server.admin_token()).json(&kind).send();
    assert_eq!(put.status, 201, "{}", put.text());
    let (of_saga, of_event) = (format!("sagas/{saga}"), format!("events/{id}"));
    let views: Vec<&str> = VIEWS.into_iter().chain([&*of_saga, &*of_event, "types/a.%3Csvg"]).collect();
    for view in &views {
        show(&mut page, view);
        assert_eq!(
            page.evaluate("document.querySelectorAll('#app :is(img, script, svg, iframe)').length"),
            0,
            "{view}"
        );
    }
    show(&mut page, &of_event);
    shows(&mut page, HOSTILE);
    show(&mut page, &of_saga);
    shows(&mut page, HOSTILE);
    assert_eq!(page.evaluate("[window.hurt === undefined, reports]"), json!([true, []]));
    let origin = format!("http://{}/", server.addr());
    let elsewhere: Vec<_> = asked(&mut page).into_iter().filter(|(name, _)| !name.starts_with(&origin)).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");

    // Axe, and pictures to look at, of every view.
    page.evaluate(&format!("{}; 0", axe()));
    for (look, width, scheme) in [("light", 1280, "light"), ("dark", 1280, "dark"), ("narrow", 360, "light")] {
        page.look(width, scheme);
        // Axe reads colours: the page is to be painted anew before, and what fades from one to the other has done so.
        page.evaluate("window.painted = false; requestAnimationFrame(() => requestAnimationFrame(() => { window.painted = true })); 0");
        page.wait_until("window.painted && document.getAnimations().length === 0");
        for view in &views {
            show(&mut page, view);
            page.evaluate("window.found = null; axe.run({ resultTypes: ['violations'] }).then(({ violations }) => { window.found = violations.map(({ id, nodes }) => id + ': ' + nodes.map((node) => node.html.slice(0, 60) + (node.any[0] || {}).message).join(' | ')) }); 0");
            page.wait_until("window.found != null");
            assert_eq!(page.evaluate("window.found"), json!([]), "{view} {look}");
            let over = page.evaluate("document.documentElement.scrollWidth - innerWidth");
            assert!(over.as_i64() <= Some(0), "{view} is {over} pixels too wide, {look}");
            let name = view.replace(&saga, "one").replace(&of_event, "events-one").replace(['/', '?', '=', '%'], "-");
            page.keep_seen(&root().join("target/screenshots").join(format!("{name}-{look}.png")));
        }
    }
}

/// What makes elements of text has no place in the files of the page. (Preact can, for who asks it to.)
#[test]
fn no_file_of_the_page_makes_elements_of_text() {
    let folder = root().join("src/web/admin/page");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        if !name.ends_with(".js") || name == "preact.js" {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).expect("a text");
        for word in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "http://"]
        {
            let is_named = text.contains(word) && !(name == "uplot.js" && word == "http://");
            assert!(!is_named, "{name} has {word}");
        }
        count += 1;
    }
    assert!(count > 15, "{count} files");
}

/// Whoever looks is sent the same, and who comes later is told what was.
#[test]
fn samples_are_made_while_somebody_looks() {
    let bank = Service::start();
    let server = with_bank(&bank, "");
    let open = |token| {
        let mut connection = Connection::open(server.addr()).expect("a connection");
        let request = Request::new(server.addr(), "GET", "/admin/samples").bearer(token);
        connection.send_raw(&request.encode()).expect("a request that is sent");
        let (status, _) = connection.receive_head().expect("an answer");
        (connection, status)
    };
    let follow = || open(server.admin_token()).0;
    // A chunk has whole frames.
    let next = |stream: &mut Connection, event: &str| loop {
        let mut chunk = Vec::new();
        assert!(stream.read_chunk(&mut chunk).expect("a chunk"), "the stream goes on");
        let chunk = String::from_utf8(chunk).expect("text");
        let data = |frame: &str| frame.strip_prefix(&format!("event: {event}\ndata: ")).map(str::to_owned);
        if let Some(data) = chunk.split("\n\n").find_map(data) {
            return data;
        }
    };
    let (mut one, mut other) = (follow(), follow());
    let begin: Value = serde_json::from_str(&next(&mut one, "begin")).expect("JSON");
    assert_eq!((&begin["fields"][0], &begin["samples"]), (&json!("at"), &json!([])));
    let services: Value = serde_json::from_str(&next(&mut one, "services")).expect("JSON");
    assert_eq!((&services[0]["service"], &services[0]["breaker"]), (&json!("bank"), &json!("closed")));
    let sample = next(&mut one, "sample");
    assert_eq!(sample, next(&mut other, "sample"));
    assert!(next(&mut follow(), "begin").contains(&sample));
    assert_eq!(open(None).1, 401);
}
