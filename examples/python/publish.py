"""Publishes events, each stored once, whatever goes away meanwhile: the connection, or the server.

    python publish.py [URL [NAME [COUNT]]]     # http://127.0.0.1:4300  example.made  10

What was not answered may or may not be stored: it is asked for again under the same idempotency key. TOKEN in the
environment is sent if it is there.
"""

import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
import uuid

DEFAULTS = ["http://127.0.0.1:4300", "example.made", "10"]
URL, NAME, COUNT = sys.argv[1:] + DEFAULTS[len(sys.argv) - 1 :]
HEADERS = {"Content-Type": "application/json"}
if "TOKEN" in os.environ:
    HEADERS["Authorization"] = f"Bearer {os.environ['TOKEN']}"


def publish(event_name, payload):
    """The id of the event, once it is stored."""
    body = json.dumps({"event_name": event_name, "payload": payload}).encode()
    request = urllib.request.Request(f"{URL}/publish", body, {**HEADERS, "Idempotency-Key": str(uuid.uuid4())})
    attempt = 0
    while True:
        try:
            with urllib.request.urlopen(request, timeout=15) as answer:
                return int(answer.headers["Event-Id"])
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503):
                sys.exit(f"refused: {error.code} {error.read().decode()}")
            wait = float(error.headers["Retry-After"] or 1)
        except OSError as error:  # no answer: stored or not
            print(error, file=sys.stderr, flush=True)
            wait = min(30, 0.2 * 2**attempt)
        attempt += 1
        time.sleep(wait * random.uniform(0.5, 1))


for n in range(int(COUNT)):
    print(publish(NAME, {"n": n}), flush=True)
