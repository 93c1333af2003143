//! The Python clients that the promise was first written for: httpx and websockets.

use std::path::Path;
use std::process::Command;

use crate::support::{Server, for_each_backend};

#[test]
fn the_reference_clients_publish_and_subscribe() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("target/venv/bin/python");
        assert!(python.exists(), "{} is missing; ./tests/run creates it", python.display());
        let output = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(python)
            .arg(root.join("tests/python/reference_clients.py"))
            .arg(server.addr().to_string())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .expect("Python can be started");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(text.ends_with("all clients served\n"), "{text}");
    });
}
