"""A participant of sagas: reserves money, and gives it back. Whatever comes twice, late or in the wrong order does no harm.

    python participant.py [ADDRESS [FILE]]     # 127.0.0.1:8080  participant.db

It needs nothing but Python. See docs/sagas.md for what a participant promises; `Barrier` keeps the promise, and the
rest is the service's own work. A step of a saga uses it like this:

    call = { service = "wallet", path = "/reservations", body = { owner = "ada", amount = 30 } }
    probe = { path = "/reservations/${saga.id}/reserve" }     # the name of the step
    compensate = { call = { service = "wallet", path = "/reservations/cancel" } }
"""

import json
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Refused(Exception):
    """Nothing was done, for a reason that the saga is told. It is forgotten: the same call may succeed later."""


class Busy(Exception):
    """Whether it is done is not known yet."""


class Barrier:
    """One row for each operation of each step of each saga, with the answer that it was given."""

    TABLE = """CREATE TABLE IF NOT EXISTS barrier (
        saga TEXT, step TEXT, operation TEXT, answer TEXT, PRIMARY KEY (saga, step, operation))"""

    def __init__(self, db):
        self.lock = threading.Lock()  # one transaction at a time on this connection
        self.under_way = []
        self.db = db
        db.execute(self.TABLE)

    def call(self, saga, step, operation, work):
        """Does `work` at most once; returns the answer. `work` gets the connection and, if it undoes an action, the
        answer that the action was given. Its changes are in the transaction of the row, so they are there together."""
        self.under_way.append((saga, step))
        try:
            with self.lock:
                return self.transaction(saga, step, operation, work)
        finally:
            self.under_way.remove((saga, step))

    def transaction(self, *call):
        self.db.execute("BEGIN IMMEDIATE")
        try:
            answer = self.decide(*call)
            self.db.execute("COMMIT")
            return answer
        except BaseException:
            self.db.execute("ROLLBACK")
            raise

    def decide(self, saga, step, operation, work):
        undone = None
        if operation == "compensation":
            # If the action has not come, this row keeps it away: it does nothing when it comes after all.
            if self.add(saga, step, "action"):
                self.add(saga, step, "compensation")
                return self.answer(saga, step, "compensation", {})
            undone = self.answered(saga, step, "action")
        if not self.add(saga, step, operation):
            answer = self.answered(saga, step, operation)
            if answer is None:
                raise Refused("its compensation came first")
            return answer
        return self.answer(saga, step, operation, work(self.db, undone))

    def done(self, saga, step):
        """The answer of an action that is done, and not undone. None is a promise: no call of it is under way."""
        self.be_idle(saga, step)
        with self.lock:
            undone = self.answered(saga, step, "compensation")
            answer = self.answered(saga, step, "action") if undone is None else None
            if answer is None:
                self.be_idle(saga, step)
            return answer

    def be_idle(self, *step):
        if step in self.under_way:
            raise Busy

    def add(self, *row):
        """Whether the row is new. A database with several writers makes the second one wait here for the first."""
        sql = "INSERT INTO barrier (saga, step, operation) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        return self.db.execute(sql, row).rowcount == 1

    def answered(self, *row):
        sql = "SELECT answer FROM barrier WHERE saga = ? AND step = ? AND operation = ?"
        found = self.db.execute(sql, row).fetchone()
        return json.loads(found[0]) if found and found[0] else None

    def answer(self, saga, step, operation, answer):
        sql = "UPDATE barrier SET answer = ? WHERE saga = ? AND step = ? AND operation = ?"
        self.db.execute(sql, (json.dumps(answer), saga, step, operation))
        return answer


# The service's own work.

FUNDS = "CREATE TABLE IF NOT EXISTS funds (owner TEXT PRIMARY KEY, free INTEGER, reserved INTEGER DEFAULT 0)"


def reserve(db, body):
    owner, amount = body["owner"], body["amount"]
    if not isinstance(owner, str) or not isinstance(amount, int):
        raise ValueError("owner must be text, and amount a whole number")
    sql = "UPDATE funds SET free = free - ?2, reserved = reserved + ?2 WHERE owner = ?1 AND ?2 BETWEEN 0 AND free"
    if db.execute(sql, (owner, amount)).rowcount == 0:
        raise Refused("there is not enough money")
    return {"owner": owner, "reserved": amount}


def give_back(db, reserved):
    sql = "UPDATE funds SET free = free + ?2, reserved = reserved - ?2 WHERE owner = ?1"
    db.execute(sql, (reserved["owner"], reserved["reserved"]))
    return {"owner": reserved["owner"], "given_back": reserved["reserved"]}


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        # The body is read before anything is answered, since the next request follows it on the same connection.
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            if self.path == "/reservations":
                self.answer(200, self.take("action", lambda db, _: reserve(db, json.loads(body))))
            elif self.path == "/reservations/cancel":
                self.answer(200, self.take("compensation", give_back))
            else:
                self.answer(404)
        except Refused as reason:
            self.answer(409, {"reason": str(reason)})
        except (KeyError, TypeError, ValueError) as error:
            self.answer(400, {"reason": repr(error)})  # a refusal too: nothing was done

    def take(self, operation, work):
        saga, step = self.headers["Saga-Id"], self.headers["Saga-Step"]
        if not saga or not step or self.headers["Saga-Operation"] != operation:
            raise ValueError(f"this is the {operation} of a step of a saga")
        return barrier.call(saga, step, operation, work)

    def do_GET(self):
        match self.path.split("/")[1:]:
            case ["reservations", saga, step]:
                try:
                    done = barrier.done(saga, step)
                    self.answer(404 if done is None else 200, done)
                except Busy:
                    self.answer(503)  # asked again
            case ["funds", owner]:
                with barrier.lock:
                    found = db.execute("SELECT free, reserved FROM funds WHERE owner = ?", (owner,)).fetchone()
                self.answer(*(200, dict(zip(("free", "reserved"), found))) if found else (404,))
            case _:
                self.answer(404)

    def do_PUT(self):
        """Somebody has so much money now."""
        free = int(self.rfile.read(int(self.headers.get("content-length", 0))))
        sql = "INSERT INTO funds (owner, free) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET free = ?2"
        with barrier.lock:
            db.execute(sql, (self.path.removeprefix("/funds/"), free))
        self.answer(200, {})

    def answer(self, status, data=None):
        body = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    DEFAULTS = ["127.0.0.1:8080", "participant.db"]
    address, file = sys.argv[1:] + DEFAULTS[len(sys.argv) - 1 :]
    db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
    db.execute(FUNDS)
    barrier = Barrier(db)
    host, port = address.rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Service)
    print(f"listening on {host}:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
