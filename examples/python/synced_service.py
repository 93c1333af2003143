"""A service that keeps a copy of entities, and tells the digests by which the server finds and repairs what it lacks.

    python synced_service.py [ADDRESS [FILE]]     # 127.0.0.1:8080  copy.db

It needs nothing but Python. With SECRET=whsec_… in the environment it answers only what is signed with that secret. See
"Services that keep a copy" in docs/protocol.md for the other side, which is configured like this:

    [[services]]
    name = "copy"
    url = "http://127.0.0.1:8080"
    routes = ["state.auction.changed"]
    sync = { types = ["auction"] }
"""

import json
import os
import re
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from digest import bucket, digest
from receiver import verify

DIGEST = re.compile("/sync/([^/]+)/digest(?:/([0-9]+))?")


class Copy:
    """The entities, in a file: what was acknowledged is there after a crash."""

    def __init__(self, file):
        self.lock = threading.Lock()
        self.db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self.db.execute("CREATE TABLE IF NOT EXISTS entities (type, key, version, value, PRIMARY KEY (type, key))")

    def take(self, event):
        """A change, live or as a repair: whichever comes last, the greater version counts. A deleted entity stays as a
        row without a value, so that an older change does not bring it back."""
        change = event["payload"]
        value = json.dumps(change["value"]) if change["op"] == "put" else None
        with self.lock:
            self.db.execute(
                "INSERT INTO entities VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET version = ?3, value = ?4"
                " WHERE version < ?3",
                (change["type"], change["key"], event["id"], value),
            )

    def versions(self, kind):
        """The newest event that is in it, and the versions of the entities of a type."""
        with self.lock:
            (as_of,) = self.db.execute("SELECT max(version) FROM entities").fetchone()
            rows = self.db.execute("SELECT key, version FROM entities WHERE type = ? AND value IS NOT NULL", (kind,))
            return as_of or 0, dict(rows.fetchall())


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not self.is_from_the_server(body):
            return self.answer(401)
        event = json.loads(body)
        if event["event_name"].startswith("state."):
            copy.take(event)
        self.answer(204)

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not self.is_from_the_server(body):
            return self.answer(401)
        url = urlsplit(self.path)
        asked = DIGEST.fullmatch(url.path)
        if not asked:
            return self.answer(404)
        kind, number = unquote(asked[1]), asked[2]
        buckets = int(parse_qs(url.query).get("buckets", ["256"])[0])
        as_of, versions = copy.versions(kind)
        if number is None:
            return self.answer(200, {"type": kind, "as_of": as_of, **digest(versions, buckets)})
        of_bucket = (item for item in versions.items() if bucket(item[0], buckets) == int(number))
        self.answer(200, [{"key": key, "version": version} for key, version in of_bucket])

    def is_from_the_server(self, body):
        return "SECRET" not in os.environ or verify(os.environ["SECRET"], self.headers, body)

    def answer(self, status, data=None):
        body = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    DEFAULTS = ["127.0.0.1:8080", "copy.db"]
    address, file = sys.argv[1:] + DEFAULTS[len(sys.argv) - 1 :]
    copy = Copy(file)
    host, port = address.rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Service)
    print(f"listening on {host}:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
