//! `/docs` in a browser.

use serde_json::json;

use crate::support::browser::Page;
use crate::support::server::Builder;
use crate::support::tokens::token;
use crate::support::{Backend, Server};

fn open(builder: Builder, base: &str) -> (Server, Page) {
    let server = builder.backend(Backend::Sqlite).env("EVENT_HANDLER__SERVER__BASE_PATH", base).start();
    let mut page = Page::open(&format!("http://{}{base}/docs", server.addr()));
    page.wait_until("document.querySelectorAll('details.item').length > 60");
    (server, page)
}

fn type_into(page: &mut Page, id: &str, text: &str, event: &str) {
    let field = format!("document.getElementById({})", json!(id));
    page.evaluate(&format!("{field}.value = {}; {field}.dispatchEvent(new Event({}))", json!(text), json!(event)));
}

fn submit(page: &mut Page, form: &str, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        page.evaluate(&format!(
            "document.getElementById({}).elements[{}].value = {}",
            json!(form),
            json!(name),
            json!(value)
        ));
    }
    page.evaluate(&format!("document.getElementById({}).requestSubmit()", json!(form)));
}

#[test]
fn the_page_shows_and_searches_both_documents() {
    let (_server, mut page) = open(Server::builder(), "");
    let visible = "[...document.querySelectorAll('details.item')].filter(item => !item.hidden).map(item => item.id)";
    type_into(&mut page, "words", "IDEMPOTENCY_KEY publish", "input");
    page.wait_until(&format!("{visible}.includes('publish') && {visible}.includes('websocket-PublishFrame')"));
    page.wait_until(&format!("!{visible}.includes('listNodes')"));
    type_into(&mut page, "words", "nothing like this", "input");
    page.wait_until("document.getElementById('said').textContent == '0 found'");
    page.wait_until("[...document.querySelectorAll('section.made')].every(section => section.hidden)");
    // By keyboard: Escape and a slash.
    page.evaluate(
        "document.getElementById('words').dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', bubbles: true}))",
    );
    page.wait_until(&format!("{visible}.length > 60"));
    page.evaluate("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '/', bubbles: true}))");
    page.wait_until("document.activeElement.id == 'words'");
    // What is opened shows parameters, schemas and error codes.
    page.evaluate("location.hash = '#putEntity'");
    page.wait_until("document.getElementById('putEntity').open");
    page.wait_until("document.getElementById('putEntity').textContent.includes('updated_at')");
    page.wait_until("document.getElementById('putEntity').textContent.includes('version_conflict')");
    page.wait_until("document.activeElement == document.querySelector('#putEntity summary')");
}

#[test]
fn the_page_publishes_and_subscribes_below_a_base_path() {
    let tokens = [("page", r#"scopes = { publish = ["a.*"], subscribe = ["a.*"], read = ["a.*"] }"#)];
    let (server, mut page) = open(Server::builder().tokens(&tokens, ""), "/x/y");
    submit(&mut page, "publish", &[("event_name", "a.b"), ("payload", "1")]);
    page.wait_until("document.getElementById('published').textContent.startsWith('401')");
    type_into(&mut page, "token", &token("page"), "change");
    submit(&mut page, "subscribe", &[("event_name", "a.*")]);
    page.wait_until("document.getElementById('stream').textContent == 'live'");
    submit(&mut page, "publish", &[("event_name", "a.b"), ("payload", r#"{"n":1e400,"t":"<b>"}"#)]);
    page.wait_until("document.getElementById('published').textContent.startsWith('200 1')");
    page.wait_until(r#"document.querySelector('#events li')?.textContent == '1 a.b {"n":1e400,"t":"<b>"}'"#);
    let asked = server.request("GET", "/x/y/events/1").header("Authorization", &format!("Bearer {}", token("page")));
    assert_eq!(asked.send().status, 200);
    page.evaluate("document.getElementById('stop').click()");
    page.wait_until("document.getElementById('stream').textContent == 'stopped'");
    // The token stays in the tab, and comes neither into its address nor into the next browser.
    assert_eq!(page.evaluate("location.href.includes(sessionStorage.getItem('token'))"), json!(false));
    assert_eq!(page.evaluate("localStorage.length"), json!(0));
}

/// What the catalogue holds is the text of others.
#[test]
fn hostile_text_stays_text() {
    let (_server, mut page) = open(Server::builder(), "");
    let hostile = "<img src=x onerror=window.hurt=1><script>window.hurt=1</script>";
    let message = json!({
        "name": hostile, "description": hostile, "x-event-type": { "version": 1, "owner": hostile, "deprecated": true },
        "payload": { "$ref": "#/components/schemas/x" }, "examples": [{ "payload": { "__proto__": hostile, "a": hostile } }],
    });
    let loops = json!({ "$ref": "#/components/schemas/y" });
    let schema = json!({
        "description": hostile, "type": "object", "required": 7, "enum": null,
        "properties": { "__proto__": loops, "constructor": { "const": hostile }, "a": { "$ref": "#/components/schemas/x" }, "b": { "$ref": 5 }, "c": true, "d": null },
    });
    page.evaluate(&format!(
        "window.original = fetch; window.fetch = async (...given) => {{
            const answer = await original(...given);
            if (!given[0].endsWith('asyncapi.json')) return answer;
            const document = await answer.json();
            document.components.messages['payload.x'] = {message};
            document.components.schemas.x = {schema};
            document.components.schemas.y = {{ $ref: '#/components/schemas/y' }};
            return new Response(JSON.stringify(document));
        }}; 0"
    ));
    type_into(&mut page, "token", "", "change");
    page.wait_until("document.getElementById('payload.x') != null");
    page.evaluate("document.getElementById('payload.x').open = true");
    page.wait_until("document.getElementById('payload.x').textContent.includes('Example')");
    assert_eq!(page.evaluate("document.querySelectorAll('main img, main script').length"), json!(0));
    assert_eq!(page.evaluate("window.hurt === undefined"), json!(true));
    assert_eq!(
        page.evaluate(&format!("document.getElementById('payload.x').textContent.includes({})", json!(hostile))),
        json!(true)
    );
    // The policy holds even if the page did what it does not do.
    assert_eq!(page.evaluate("try { document.body.innerHTML = '<b>'; 'taken' } catch { 'refused' }"), json!("refused"));
    // Later, since what DevTools evaluates may do so.
    page.evaluate(
        "setTimeout(() => { try { eval('1'); window.told = 'taken' } catch { window.told = 'refused' } }); 0",
    );
    page.wait_until("window.told == 'refused'");
}
