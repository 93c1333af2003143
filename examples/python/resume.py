"""Follows events and misses none, whatever goes away: the connection, the server, or this program.

    python resume.py [URL [PATTERN [FILE]]]     # ws://127.0.0.1:4300/ws  >  data/position.txt

FILE has the id of the last event that was processed, and which log it is an id of. TOKEN in the environment is sent if it is there.
"""

import asyncio
import json
import os
import random
import sys
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

DEFAULTS = ["ws://127.0.0.1:4300/ws", ">", "data/position.txt"]
URL, PATTERN, FILE = sys.argv[1:] + DEFAULTS[len(sys.argv) - 1 :]
HEADERS = {"Authorization": f"Bearer {os.environ['TOKEN']}"} if "TOKEN" in os.environ else {}

HOPELESS = {1002, 1003, 1007, 1009}  # this program is at fault; so it is with 4000 to 4099


def process(event):
    """Your work. What it has done when it returns is not done again."""
    print(event["id"], event["event_name"], json.dumps(event["payload"]), flush=True)


def position():
    """The id, and the identity of its log."""
    words = Path(FILE).read_text().split() if Path(FILE).exists() else []
    return (int(words[0]) if words else None, words[1] if len(words) > 1 else None)


def remember(event_id, log):
    """A file is replaced as a whole. Better still: keep the id where `process` writes, in the same transaction."""
    new = Path(f"{FILE}.new")
    new.parent.mkdir(parents=True, exist_ok=True)
    new.write_text(f"{event_id} {log}\n")
    new.replace(FILE)


async def follow():
    """One connection, until it ends with an exception."""
    async with connect(URL, additional_headers=HEADERS) as socket:
        after, log = position()
        request = {"id": 1, "action": "subscribe", "event_name": PATTERN, "envelope": "full"}
        known = {} if after is None else {"after": after, "log_id": log}
        await socket.send(json.dumps({**request, **known}))
        while True:
            frame = json.loads(await socket.recv())
            match frame.get("type"):
                case "event":
                    process(frame)
                    remember(frame["id"], log)
                case "subscribed":
                    if after is not None and not frame["recovered"]:
                        print(f"some events after {after} are not there", file=sys.stderr)
                    is_another = log not in (None, frame["log_id"]) or (after or 0) > frame["last_id"]
                    log = frame["log_id"]
                    if after is None or is_another:
                        remember(frame["last_id"], log)
                    print(f"subscribed after {after}", file=sys.stderr, flush=True)
                case "error":
                    give_up_or_retry(frame["error"])


def give_up_or_retry(error):
    if "retry_after_ms" not in error:
        sys.exit(error["message"])
    raise TimeoutError(error["message"])


def seconds_until_return(error, attempt):
    """How long to stay away, by the table of close codes; ends the program where coming back is no use."""
    backoff = random.uniform(0.5, 1) * min(30, 0.2 * 2**attempt)
    match error:
        case ConnectionClosed(rcvd=said) if said is not None:
            if said.code in HOPELESS or 4000 <= said.code < 4100:
                sys.exit(f"closed: {said.code} {said.reason}")
            return random.random() if 4200 <= said.code < 4300 else backoff
        case InvalidStatus(response=response) if response.status_code not in (429, 503):
            sys.exit(f"refused: {response.status_code} {response.body.decode()}")
    return backoff


async def main():
    attempt = 0
    while True:
        before = position()
        try:
            await follow()
        except (OSError, TimeoutError, ConnectionClosed, InvalidStatus) as error:
            attempt = attempt + 1 if position() == before else 0
            wait = seconds_until_return(error, attempt)
            print(f"{error}; back in {wait:.1f} s", file=sys.stderr, flush=True)
            await asyncio.sleep(wait)


asyncio.run(main())
