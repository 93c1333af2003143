//! Chromium without a window, told what to do over its DevTools protocol; and a place from which it gets a page.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::Request;
use super::program::{Program, command};
use super::ws::Socket;
use super::{PATIENCE, eventually};

/// A name that somebody has made point to this machine.
pub const REBOUND: &str = "rebound.example";

/// One tab of a browser of its own.
pub struct Page {
    devtools: Socket,
    calls: u64,
    _browser: Program,
    _profile: TempDir,
}

impl Page {
    /// Opens `url`.
    pub fn open(url: &str) -> Self {
        let profile = TempDir::new().expect("a temporary folder");
        let browser = Program::start(
            command("chromium")
                .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
                .args(["--disable-background-networking", "--disable-component-update", "--no-proxy-server"])
                .args(["--remote-debugging-port=0"])
                .arg(format!("--host-resolver-rules=MAP {REBOUND} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
                .arg(format!("--user-data-dir={}", profile.path().display()))
                .arg("about:blank"),
        );
        let addr: SocketAddr = browser
            .wait_for_word(|line| line.strip_prefix("DevTools listening on ws://")?.split('/').next()?.parse().ok());
        let path = eventually("the browser has a tab", || {
            let tabs = Request::new(addr, "GET", "/json/list").send().json();
            let tab = tabs.as_array()?.iter().find(|tab| tab["type"] == "page")?;
            let url = tab["webSocketDebuggerUrl"].as_str()?;
            url.strip_prefix(&format!("ws://{addr}")).map(str::to_owned)
        });
        let devtools = Socket::connect(addr, &path, &[]).expect("a tab to connect to");
        let mut page = Self { devtools, calls: 0, _browser: browser, _profile: profile };
        page.navigate(url);
        page
    }

    /// Goes to `url`, and waits until it is loaded.
    pub fn navigate(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({ "url": url })).expect("a page that navigates");
        assert!(answer["errorText"].is_null(), "{answer}");
        self.wait_until("location.href != 'about:blank' && document.readyState == 'complete'");
    }

    /// Has every page run `script` before its own.
    pub fn run_first(&mut self, script: &str) {
        self.call("Page.enable", json!({})).expect("a tab that tells");
        self.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script }))
            .expect("a script that is taken");
    }

    /// Looks at pages through a window of this width in pixels, where the system asks for this colour scheme.
    pub fn look(&mut self, width: u32, scheme: &str) {
        let size = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).expect("a size");
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features).expect("a colour scheme");
    }

    /// Keeps what is seen as a PNG.
    pub fn keep_seen(&mut self, path: &Path) {
        let seen = self.call("Page.captureScreenshot", json!({ "format": "png" })).expect("a picture");
        let seen = BASE64_STANDARD.decode(seen["data"].as_str().expect("base64")).expect("base64");
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, seen).expect("a picture on disk");
    }

    /// The value of a JavaScript expression.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        self.try_evaluate(expression).unwrap_or_else(|problem| panic!("{expression}: {problem}"))
    }

    /// Waits until a JavaScript expression is true.
    /// A page that is being left or loaded has no answer yet: its elements may be missing, and its calls end with it.
    pub fn wait_until(&mut self, expression: &str) {
        let mut turns = PATIENCE.as_millis() / 10;
        let mut last = self.try_evaluate(expression);
        while last != Ok(Value::Bool(true)) {
            turns -= 1;
            assert!(turns > 0, "{expression} is {last:?}: {:?}", self.try_evaluate("document.body.innerText"));
            thread::sleep(std::time::Duration::from_millis(10));
            last = self.try_evaluate(expression);
        }
    }

    fn try_evaluate(&mut self, expression: &str) -> Result<Value, Value> {
        let params = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", params)?;
        match answer["exceptionDetails"].take() {
            Value::Null => Ok(answer["result"]["value"].take()),
            exception => Err(exception),
        }
    }

    /// The result of a call, or its error.
    fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.calls += 1;
        let id = self.calls;
        self.devtools.send(json!({ "id": id, "method": method, "params": params }));
        loop {
            let mut answer = self.devtools.recv_json();
            if answer["id"] == id {
                return match answer["error"].take() {
                    Value::Null => Ok(answer["result"].take()),
                    error => Err(error),
                };
            }
        }
    }
}

/// Serves `html` to everybody, for as long as the test runs; returns where.
pub fn serve_page(html: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("a bound socket");
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| answer(stream, html)));
    addr
}

fn answer(mut stream: TcpStream, html: &str) {
    let head = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    head.for_each(drop);
    let length = html.len();
    // A browser that does not wait for its answer has other plans.
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{html}"
    );
}
