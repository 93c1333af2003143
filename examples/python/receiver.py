"""Receives deliveries over HTTP, and believes those alone that are signed with its secret (Standard Webhooks).

    SECRET=whsec_… python receiver.py [ADDRESS]     # 127.0.0.1:8080

It needs nothing but Python. With `pip install standardwebhooks`, `verify` below is
`Webhook(secret).verify(body, headers)`. The service is configured with the same secret:

    [[services]]
    name = "receiver"
    url = "http://127.0.0.1:8080"
    secret = "whsec_…"          # head -c 32 /dev/urandom | event-handler secret encode
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE = 5 * 60  # seconds; what is older may be a request that somebody has recorded and sends again


def verify(secret, headers, body):
    """Whether this very body was signed with `secret` just now. One good signature of several is enough."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    identity, sent_at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not sent_at.isdecimal() or abs(time.time() - int(sent_at)) > TOLERANCE:
        return False
    mac = hmac.new(key, f"{identity}.{sent_at}.".encode() + body, hashlib.sha256)
    expected = "v1," + base64.b64encode(mac.digest()).decode()
    given = headers.get("webhook-signature", "").split(" ")
    # In a time that tells nothing of the expected one.
    return any([hmac.compare_digest(expected.encode(), signature.encode()) for signature in given])


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if verify(os.environ["SECRET"], self.headers, body):
            # Your work. A delivery may come again, with the same webhook-id: do it once, or so that twice is no harm.
            print(self.headers["webhook-id"], json.dumps(json.loads(body)["payload"]), flush=True)
            self.answer(204)
        else:
            self.answer(401)  # dead at once, for an operator to see

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8080").rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Receiver)
    print(f"listening on {host}:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
