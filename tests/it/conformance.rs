//! WebSocket conformance, tried out by a client that shares no code with the server: over the echo example, which
//! stands on the same transport as `/ws`, and over `/ws` itself.

use crate::python::python;
use crate::support::program::{Program, example};
use crate::support::{Backend, Server};

const SCRIPT: &str = "ws_conformance.py";
const PASSED: &str = "all cases passed\n";

#[test]
fn the_transport_keeps_the_standard() {
    let echo = Program::start(example("ws_echo").arg("0"));
    let url = echo.wait_for_lines(1).remove(0);
    let printed = python(SCRIPT, &["echo", url.strip_prefix("ws://").expect("a URL")], "");
    assert!(printed.ends_with(PASSED), "{printed}");
}

#[test]
fn the_service_keeps_the_standard() {
    let server = Server::start(Backend::Sqlite);
    let printed = python(SCRIPT, &["service", &server.addr().to_string()], "");
    assert!(printed.ends_with(PASSED), "{printed}");
}
