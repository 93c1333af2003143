//! What the program is installed with: completions, man pages, the unit for systemd, manifests, images.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::program::root;
use crate::support::{Backend, Server, eventually};

const UNIT: &str = include_str!("../../deploy/systemd/event-handler.service");
/// Microseconds.
const WATCHDOG: u64 = 200_000;

fn program(args: &[&str]) -> Output {
    // The definition of the command line is all it takes: no configuration is read.
    let mut command = Command::new(env!("CARGO_BIN_EXE_event-handler"));
    command.env("EVENT_HANDLER_CONFIG", "/nowhere.toml").args(args).output().expect("the program can be started")
}

fn printed(args: &[&str]) -> String {
    let output = program(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The commands that the help lists.
fn commands() -> BTreeSet<String> {
    let help = printed(&["--help"]);
    let (_, listed) = help.split_once("Commands:\n").expect("commands");
    let lines = listed.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect()
}

fn passes(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; ./tests/run installs it"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{said}");
    said
}

fn validator(name: &str) -> Command {
    Command::new(root().join("target/validators/venv/bin").join(name))
}

#[test]
fn bash_completes_every_command() {
    // As the shell does it: the function that is registered for the program fills COMPREPLY.
    let script = r#"source <("$0" completions bash); registered=$(complete -p event-handler)
        completer=${registered#*-F }; COMP_WORDS=("${@:1}" '') COMP_CWORD=$#
        "${completer%% *}" event-handler '' "${@: -1}"; printf '%s\n' "${COMPREPLY[@]}""#;
    let offered = |typed: &[&str]| -> BTreeSet<String> {
        let mut bash = Command::new("bash");
        bash.args(["-ec", script, env!("CARGO_BIN_EXE_event-handler")]).args(typed);
        passes(bash).lines().map(str::to_owned).collect()
    };
    let below = offered(&["event-handler", "services"]);
    assert!(["pause", "resume", "reset"].iter().all(|name| below.contains(*name)), "{below:?}");
    let offered = offered(&["event-handler"]);
    let commands = commands();
    assert!(commands.len() > 25, "{commands:?}");
    assert!(commands.iter().all(|name| offered.contains(name.as_str())), "{offered:?}");
    for shell in ["elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["completions", shell]);
        assert!(commands.iter().all(|name| script.contains(name.as_str())), "{shell}: {script}");
    }
}

#[test]
fn every_command_has_its_man_page_and_is_named_in_that_of_the_program() {
    let page = printed(&["man"]);
    let folder = TempDir::new().expect("a folder");
    printed(&["man", folder.path().to_str().expect("UTF-8")]);
    for command in commands() {
        let name = format!("event-handler-{command}");
        assert!(page.contains(&format!("{}(1)", name.replace('-', "\\-"))), "{name} is not in\n{page}");
        let own = fs::read_to_string(folder.path().join(format!("{name}.1"))).expect("a page");
        assert!(own.starts_with(".ie") && own.contains(".SH SYNOPSIS"), "{own}");
    }
    assert!(folder.path().join("event-handler-sagas-list.1").exists(), "of commands of commands too");
    assert_eq!(program(&["man", "/nowhere"]).status.code(), Some(1));
}

#[test]
fn the_unit_is_sound_and_exposes_little() {
    let folder = TempDir::new().expect("a folder");
    let unit = folder.path().join("event-handler.service");
    // The page and the program are where the package puts them.
    let here = UNIT.replace("/usr/bin/event-handler", env!("CARGO_BIN_EXE_event-handler"));
    let here: String =
        here.lines().filter(|line| !line.starts_with("Documentation=")).map(|line| format!("{line}\n")).collect();
    fs::write(&unit, here).expect("written");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&unit);
    let said = passes(verify);
    assert!(!said.contains("event-handler.service"), "{said}");
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", "--threshold=15"]).arg(&unit);
    passes(security);
}

/// A service manager, and the server that it has started.
fn managed() -> (UnixDatagram, TempDir, Server) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let server = Server::builder().backend(Backend::Sqlite).env("NOTIFY_SOCKET", path.display());
    (manager, folder, server.env("WATCHDOG_USEC", WATCHDOG).start())
}

fn heard(manager: &UnixDatagram) -> Result<String, ErrorKind> {
    let mut buffer = [0; 512];
    let length = manager.recv(&mut buffer).map_err(|error| error.kind())?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn the_service_manager_hears_when_it_listens_that_it_is_well_and_when_it_drains() {
    let (manager, _folder, mut server) = managed();
    assert_eq!(heard(&manager), Ok(format!("READY=1\nSTATUS=Listening on {}", server.addr())));
    for _ in 0..3 {
        assert_eq!(heard(&manager).as_deref(), Ok("WATCHDOG=1"));
    }
    assert!(server.terminate().success());
    let rest: Vec<String> = std::iter::from_fn(|| {
        manager.set_nonblocking(true).expect("set");
        heard(&manager).ok()
    })
    .collect();
    assert!(rest.contains(&"STOPPING=1\nSTATUS=Draining".to_owned()), "{rest:?}");
}

#[cfg(feature = "fault-injection")]
#[test]
fn the_service_manager_hears_no_more_once_the_supervisor_hangs_though_requests_are_answered() {
    let (manager, _folder, server) = managed();
    server.post("/admin/fault/supervisor_hangs?times=1", "").data();
    server.wait_for_log(|line| line["msg"] == "the supervisor does not answer");
    // What was said before.
    manager.set_nonblocking(true).expect("set");
    while heard(&manager).is_ok() {}
    manager.set_nonblocking(false).expect("set");
    manager.set_read_timeout(Some(Duration::from_micros(3 * WATCHDOG))).expect("set");
    assert_eq!(heard(&manager), Err(ErrorKind::WouldBlock));
    assert_eq!(server.get("/health/live").status, 200);
    server.publish("a", 1.into());
}

#[test]
fn a_service_manager_that_is_not_there_keeps_nobody_from_serving() {
    let server = Server::builder().backend(Backend::Sqlite).env("NOTIFY_SOCKET", "/nowhere").start();
    eventually("a publish", || (server.publish("a", 1.into()) == 1).then_some(()));
}

#[test]
fn the_manifests_are_valid_and_their_variables_are_known() {
    let mut validate = validator("kubernetes-validate");
    validate
        .arg("--strict")
        .args(["sqlite.yaml", "postgres.yaml"].map(|name| root().join("deploy/kubernetes").join(name)));
    let said = passes(validate);
    assert_eq!(said.matches("deployment/event-handler").count(), 2, "{said}");
    let postgres = fs::read_to_string(root().join("deploy/kubernetes/postgres.yaml")).expect("readable");
    let mut check = Server::builder();
    for line in postgres.lines() {
        if let Some(name) = line.trim().strip_prefix("- name: EVENT_HANDLER") {
            check = check.env(
                &format!("EVENT_HANDLER{name}"),
                if name.ends_with("URL") { "http://10.0.0.1:4300" } else { "pod" },
            );
        }
    }
    let output = check.arg("check-config").run();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("http://10.0.0.1:4300"), "{output:?}");
}

#[test]
fn the_images_pass_hadolint() {
    let mut lint = validator("hadolint");
    lint.args(["Dockerfile", "Dockerfile.dev"]).current_dir(root());
    passes(lint);
    let bake = fs::read_to_string(root().join("deploy/docker-bake.hcl")).expect("readable");
    assert!(bake.contains(r#"platforms = ["linux/amd64", "linux/arm64"]"#));
}
