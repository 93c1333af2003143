//! The examples of participants: whatever comes twice, late or in the wrong order does no harm, in every language.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::eventually;
use crate::support::http::{Request, Response};
use crate::support::program::{Program, command, example, python, root};

const STEP: &str = "reserve";
/// What the owner has at first, and what a reservation takes of it.
const FUNDS: i64 = 100;
const AMOUNT: i64 = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Action,
    Compensation,
}
use Operation::{Action, Compensation};

/// One participant, in a folder of its own.
struct Participant {
    start: fn() -> Command,
    dir: TempDir,
    running: Option<(Program, SocketAddr)>,
}

impl Participant {
    fn new(start: fn() -> Command) -> Self {
        let mut participant = Self { start, dir: TempDir::new().expect("a folder"), running: None };
        participant.restart();
        participant
    }

    /// Kills it at once, and starts it again.
    fn restart(&mut self) {
        drop(self.running.take());
        let mut command = (self.start)();
        let program = Program::start(command.args(["127.0.0.1:0", "store"]).current_dir(self.dir.path()));
        let address = program.wait_for_word(|line| line.strip_prefix("listening on ")?.parse().ok());
        self.running = Some((program, address));
    }

    fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.running.as_ref().expect("it runs").1, method, path)
    }

    /// As the engine calls.
    fn operation(&self, saga: &str, operation: Operation) -> Request {
        let (path, name, key) = match operation {
            Action => ("/reservations", "action", format!("saga/{saga}/{STEP}")),
            Compensation => ("/reservations/cancel", "compensation", format!("saga/{saga}/{STEP}/compensation")),
        };
        self.request("POST", path)
            .header("Saga-Id", saga)
            .header("Saga-Step", STEP)
            .header("Saga-Operation", name)
            .header("Idempotency-Key", &key)
            .json(json!({ "owner": "ada", "amount": AMOUNT }))
    }

    fn call(&self, saga: &str, operation: Operation) -> Response {
        self.operation(saga, operation).send()
    }

    fn probe(&self, saga: &str) -> Response {
        self.request("GET", &format!("/reservations/{saga}/{STEP}")).send()
    }

    fn fund(&self, free: i64) {
        assert_eq!(self.request("PUT", "/funds/ada").json(free).send().status, 200);
    }

    /// How many reservations there are, as its own work counts them.
    #[track_caller]
    fn assert_reserved(&self, times: i64) {
        let funds = self.request("GET", "/funds/ada").send().json();
        assert_eq!(funds, json!({ "free": FUNDS - times * AMOUNT, "reserved": times * AMOUNT }));
    }
}

fn reserved() -> Value {
    json!({ "owner": "ada", "reserved": AMOUNT })
}

fn undoes_what_it_has_done(participant: &mut Participant) {
    assert_eq!(participant.probe("a").status, 404, "nothing is done yet");
    let done = participant.call("a", Action);
    assert_eq!((done.status, done.json()), (200, reserved()));
    participant.assert_reserved(1);
    let probed = participant.probe("a");
    assert_eq!((probed.status, probed.json()), (200, reserved()), "as the action was answered");
    assert_eq!(participant.call("a", Compensation).status, 200);
    participant.assert_reserved(0);
    assert_eq!(participant.probe("a").status, 404, "undone is not done");
}

fn bars_an_action_that_comes_after_its_compensation(participant: &mut Participant) {
    let empty = participant.call("a", Compensation);
    assert_eq!((empty.status, empty.json()), (200, json!({})), "there is nothing to undo");
    participant.assert_reserved(0);
    for _ in 0..2 {
        assert_eq!(participant.call("a", Action).status, 409);
        participant.assert_reserved(0);
        assert_eq!(participant.probe("a").status, 404);
        assert_eq!(participant.call("a", Compensation).json(), json!({}), "the same answer again");
        participant.restart();
    }
    assert_eq!(participant.call("b", Action).status, 200, "another saga is not barred");
    participant.assert_reserved(1);
}

fn acts_once_and_answers_alike(participant: &mut Participant) {
    let answers = |operation| -> Vec<(u16, Value)> {
        (0..3).map(|_| participant.call("a", operation)).map(|answer| (answer.status, answer.json())).collect()
    };
    let done = answers(Action);
    participant.assert_reserved(1);
    let undone = answers(Compensation);
    participant.assert_reserved(0);
    for alike in [&done, &undone] {
        assert!(alike[0].0 == 200 && alike.iter().all(|answer| answer == &alike[0]), "{alike:?}");
    }
    assert_eq!(answers(Action), done, "a late repetition is answered as before, and does nothing");
    participant.assert_reserved(0);
}

/// Many calls of both operations at once, over connections of their own. Either the action comes first and is undone, or
/// the compensation does and the action is barred: nothing is left.
fn comes_to_nothing_when_both_come_at_once(participant: &mut Participant) {
    const EACH: usize = 4;
    for round in 0..15 {
        let saga = format!("at-once-{round}");
        let all_ready = Barrier::new(2 * EACH);
        let answers: Vec<(Operation, u16, Value)> = thread::scope(|scope| {
            let calls: Vec<_> = (0..2 * EACH)
                .map(|n| {
                    // The first in the list tends to be the first to arrive.
                    let operation = if (n + round) % 2 == 0 { Action } else { Compensation };
                    let request = participant.operation(&saga, operation);
                    let all_ready = &all_ready;
                    scope.spawn(move || {
                        all_ready.wait();
                        let answer = request.send();
                        (operation, answer.status, answer.json())
                    })
                })
                .collect();
            calls.into_iter().map(|call| call.join().expect("no panic")).collect()
        });
        participant.assert_reserved(0);
        let of = |wanted| answers.iter().filter(move |(operation, ..)| *operation == wanted);
        let undone = of(Compensation).next().expect("some");
        assert!(of(Compensation).all(|answer| answer == undone) && undone.1 == 200, "{answers:?}");
        let has_acted = undone.2 != json!({});
        let status = if has_acted { 200 } else { 409 };
        assert!(of(Action).all(|(_, answered, _)| *answered == status), "{answers:?}");
    }
}

/// Killed after each answer, it knows all that it has answered.
fn forgets_nothing_when_it_is_killed(participant: &mut Participant) {
    for (operation, reservations) in [(Action, 1), (Compensation, 0), (Action, 0)] {
        let answer = participant.call("a", operation);
        participant.restart();
        participant.assert_reserved(reservations);
        let again = participant.call("a", operation);
        assert_eq!((again.status, again.json()), (200, answer.json()), "{operation:?}");
        participant.assert_reserved(reservations);
    }
}

/// Killed while calls are under way, it has done each as a whole or not at all, and a repetition completes it.
fn does_all_or_nothing_when_it_is_killed(participant: &mut Participant) {
    for round in 0..5 {
        let saga = format!("killed-{round}");
        let requests: Vec<Request> = (0..4).map(|_| participant.operation(&saga, Action)).collect();
        let calls: Vec<_> =
            requests.into_iter().map(|request| thread::spawn(move || request.try_send().is_ok())).collect();
        participant.restart();
        let probed = participant.probe(&saga).status;
        let answered: Vec<bool> = calls.into_iter().map(|call| call.join().expect("no panic")).collect();
        assert!(probed == 200 || !answered.contains(&true), "what was answered is done");
        participant.assert_reserved(i64::from(probed == 200));
        assert_eq!(participant.call(&saga, Action).json(), reserved());
        participant.assert_reserved(1);
        assert_eq!(participant.call(&saga, Compensation).status, 200);
        participant.assert_reserved(0);
    }
}

fn forgets_refusals(participant: &mut Participant) {
    participant.fund(AMOUNT - 1);
    for _ in 0..2 {
        assert_eq!(participant.call("a", Action).status, 409);
        assert_eq!(participant.probe("a").status, 404);
    }
    participant.fund(FUNDS);
    participant.assert_reserved(0);
    assert_eq!(participant.call("a", Action).status, 200, "with the same key");
    participant.assert_reserved(1);
}

fn refuses_what_is_no_operation_of_a_saga(participant: &mut Participant) {
    let body = json!({ "owner": "ada", "amount": AMOUNT });
    assert_eq!(participant.request("POST", "/reservations").json(&body).send().status, 400);
    let crossed = participant.request("POST", "/reservations").json(&body);
    let crossed = crossed.header("Saga-Id", "a").header("Saga-Step", STEP).header("Saga-Operation", "compensation");
    assert_eq!(crossed.send().status, 400, "an action is not called as a compensation");
    participant.assert_reserved(0);
    assert_eq!(participant.call("a", Action).status, 200, "none of that is remembered");
}

/// Of those whose store is SQLite: somebody else who writes to the file keeps the action under way. A probe that says 404
/// then would be believed, and be wrong.
fn does_not_say_that_nothing_was_done_while_it_works(start: fn() -> Command) {
    let participant = Participant::new(start);
    participant.fund(FUNDS);
    let hold = "import sqlite3, sys; db = sqlite3.connect('store'); db.execute('BEGIN IMMEDIATE'); print(flush=True); \
                sys.stdin.read()";
    let mut holder = python();
    holder.args(["-c", hold]).current_dir(participant.dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().expect("python");
    BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut String::new()).expect("it holds the store");
    let action = participant.operation("a", Action);
    let action = thread::spawn(move || action.send());
    // Before the action has arrived, a 404 is the truth.
    eventually("the probe does not know", || (participant.probe("a").status == 503).then_some(()));
    drop(holder.stdin.take());
    holder.wait().expect("it ends");
    assert_eq!(action.join().expect("no panic").json(), reserved());
    assert_eq!(participant.probe("a").json(), reserved());
}

/// The same for each language.
fn keeps_the_promise(start: fn() -> Command) {
    let promises: [fn(&mut Participant); 8] = [
        undoes_what_it_has_done,
        bars_an_action_that_comes_after_its_compensation,
        acts_once_and_answers_alike,
        comes_to_nothing_when_both_come_at_once,
        forgets_nothing_when_it_is_killed,
        does_all_or_nothing_when_it_is_killed,
        forgets_refusals,
        refuses_what_is_no_operation_of_a_saga,
    ];
    for promise in promises {
        let mut participant = Participant::new(start);
        participant.fund(FUNDS);
        promise(&mut participant);
    }
}

fn in_python() -> Command {
    let mut python = python();
    python.arg(root().join("examples/python/participant.py"));
    python
}

#[test]
fn a_participant_in_python_keeps_its_promise() {
    keeps_the_promise(in_python);
    does_not_say_that_nothing_was_done_while_it_works(in_python);
}

#[test]
fn a_participant_in_javascript_keeps_its_promise() {
    keeps_the_promise(|| {
        let mut node = command("node");
        node.arg(root().join("examples/node/participant.mjs"));
        node
    });
}

#[test]
fn a_participant_in_rust_keeps_its_promise() {
    keeps_the_promise(|| example("participant"));
    does_not_say_that_nothing_was_done_while_it_works(|| example("participant"));
}
