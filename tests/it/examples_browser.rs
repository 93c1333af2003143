//! The example for browsers, in one.

use serde_json::{Value, json};

use crate::examples::{change, kill_and_start, stored};
use crate::support::browser::{Page, serve_page};
use crate::support::server::Builder;
use crate::support::tokens::token;
use crate::support::{Backend, Server};

const HTML: &str = include_str!("../../examples/browser.html");

#[test]
fn the_subscription_of_the_readme_works_as_pasted_into_a_console() {
    let block = include_str!("../../README.md").split("```js\n").nth(1).and_then(|rest| rest.split("```").next());
    let server = Server::start(Backend::Sqlite);
    let mut page = Page::open(&format!("http://{}/health", server.addr()));
    page.evaluate("window.said = []; console.log = (...words) => said.push(words)");
    page.evaluate(block.expect("a block"));
    page.wait_until("source.readyState == EventSource.OPEN");
    server.publish("user.created", json!({"user_id": "123"}));
    page.wait_until("said.length == 1");
    assert_eq!(page.evaluate("said[0]"), json!(["user.created", {"user_id": "123"}]));
}

/// The page, where it is served, and a server that admits it.
struct Example {
    page: Page,
    url: String,
    server: Server,
}

impl Example {
    fn open(builder: Builder, query: &str) -> Self {
        let origin = format!("http://{}", serve_page(HTML));
        let server = builder
            .backend(Backend::Sqlite)
            .env("EVENT_HANDLER__SERVER__ALLOWED_ORIGINS", &origin)
            .env("EVENT_HANDLER__SERVER__CORS_ORIGINS", &origin)
            .start();
        let url = format!("{origin}/?server={}&{query}", server.addr());
        Self { page: Page::open(&url), url, server }
    }

    fn fill(&mut self, field: &str, value: &str) {
        let field = format!("document.getElementsByName({})[0]", json!(field));
        self.page.evaluate(&format!("{field}.value = {}", json!(value)));
    }

    fn press(&mut self, button: &str) {
        let found = format!("[...document.querySelectorAll('button')].find(b => b.textContent == {})", json!(button));
        self.page.evaluate(&format!("{found}.click()"));
    }

    fn subscribe(&mut self) {
        self.press("Subscribe");
        self.wait_for_state("live");
    }

    fn wait_for_state(&mut self, state: &str) {
        self.page.wait_until(&format!("document.getElementById('status').dataset.state == {}", json!(state)));
    }

    /// Publishes `n` with the page itself.
    fn publish_by_page(&mut self, n: u64) {
        self.fill("event_name", "example.made");
        self.fill("payload", &json!({ "n": n }).to_string());
        self.press("Publish");
    }

    fn publish(&self, n: u64) {
        self.server.publish("example.made", json!({ "n": n }));
    }

    /// Waits until the page shows exactly these, the newest first.
    fn wait_for_events(&mut self, numbers: &[u64]) {
        let shown =
            "[...document.querySelectorAll('#events li')].map(li => JSON.parse(li.textContent.split(' ')[2]).n)";
        self.page.wait_until(&format!("JSON.stringify({shown}) == {}", json!(Value::from(numbers).to_string())));
    }

    /// The server is killed, is gone for long enough to be noticed, and comes back with events that the page missed.
    fn outage(mut self, missed: u64) -> Self {
        self.server.kill9();
        self.wait_for_state("waiting");
        self.server = kill_and_start(self.server);
        self.publish(missed);
        self
    }
}

#[test]
fn the_page_subscribes_publishes_and_resumes() {
    let mut example = Example::open(Server::builder(), "pattern=example.*");
    example.subscribe();
    example.publish_by_page(1);
    example.wait_for_events(&[1]);

    example = example.outage(2);
    example.wait_for_events(&[2, 1]);
    example.wait_for_state("live");
    example.server.publish("other", json!({"n": 3}));
    example.publish(4);
    example.wait_for_events(&[4, 2, 1]);

    // The page is closed for a while.
    example.page.navigate("data:text/html,elsewhere");
    example.publish(5);
    let url = example.url.clone();
    example.page.navigate(&url);
    example.wait_for_events(&[]);
    example.subscribe();
    example.wait_for_events(&[5]);

    example.fill("filter", r#"{"n":[{"numeric":[">",10]}]}"#);
    example.subscribe();
    example.publish_by_page(6);
    example.publish_by_page(60);
    example.wait_for_events(&[60, 5]);
}

#[test]
fn the_page_shows_its_token() {
    let tokens = [("page", r#"scopes = { publish = ["example.*"], subscribe = ["example.*"] }"#)];
    let mut example = Example::open(Server::builder().tokens(&tokens, ""), "pattern=example.*");
    example.press("Subscribe");
    example.wait_for_state("ended");
    example.page.wait_until("document.getElementById('status').textContent.includes('4001')");
    example.fill("token", &token("page"));
    example.subscribe();
    example.publish_by_page(1);
    example.wait_for_events(&[1]);
    example.fill("pattern", ">");
    example.press("Subscribe");
    example.wait_for_state("ended");
}

#[test]
fn the_page_resumes_a_stream() {
    let mut example = Example::open(Server::builder(), "pattern=example.made&over=sse");
    example.subscribe();
    example.publish_by_page(1);
    example.wait_for_events(&[1]);
    example = example.outage(2);
    example.wait_for_events(&[2, 1]);
    example.wait_for_state("live");

    example.page.navigate("data:text/html,elsewhere");
    example.publish(3);
    let url = example.url.clone();
    example.page.navigate(&url);
    example.subscribe();
    example.wait_for_events(&[3]);

    example.fill("pattern", "example.*");
    example.press("Subscribe");
    example.wait_for_state("ended");
}

#[test]
fn a_cache_in_a_page_is_always_equal() {
    let origin = format!("http://{}", serve_page(include_str!("../../examples/cache.html")));
    let mut server = Server::builder()
        .backend(Backend::Sqlite)
        .env("EVENT_HANDLER__RETENTION__MAX_EVENTS", 40)
        .env("EVENT_HANDLER__SERVER__CORS_ORIGINS", &origin)
        .start();
    change(&server, 0);
    let mut page = Page::open(&format!("{origin}/?server={}&type=auction", server.addr()));
    wait_until_equal(&mut page, &server);
    change(&server, 1);
    wait_until_equal(&mut page, &server);
    server.kill9();
    server = kill_and_start(server);
    change(&server, 2);
    wait_until_equal(&mut page, &server);
}

fn wait_until_equal(page: &mut Page, server: &Server) {
    let stored = Value::from_iter(stored(server));
    page.wait_until("document.getElementById('state').dataset.whole == 'true'");
    let sorted = "Object.entries(JSON.parse(document.getElementById('state').textContent)).sort()";
    page.wait_until(&format!("JSON.stringify({sorted}) == JSON.stringify(Object.entries({stored}).sort())"));
}
