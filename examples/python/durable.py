"""Works on events whose position the server keeps; start it several times, and the work is shared.

    python durable.py [URL [PATTERN [NAME]]]     # ws://127.0.0.1:4300/ws  >  worker

An event that is not acknowledged, because this program died or failed, comes again: to this or another one.
TOKEN in the environment is sent if it is there.
"""

import asyncio
import json
import os
import random
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

DEFAULTS = ["ws://127.0.0.1:4300/ws", ">", "worker"]
URL, PATTERN, NAME = sys.argv[1:] + DEFAULTS[len(sys.argv) - 1 :]
HEADERS = {"Authorization": f"Bearer {os.environ['TOKEN']}"} if "TOKEN" in os.environ else {}

HOPELESS = {1002, 1003, 1007, 1009}  # this program is at fault; so it is with 4000 to 4099


def process(event):
    """Your work. It may be asked for the same event again: then `delivery` is above 1, or a crash forgot to count."""
    print(event["id"], event["event_name"], json.dumps(event["payload"]), flush=True)


async def work():
    """One connection, until it ends with an exception."""
    async with connect(URL, additional_headers=HEADERS) as socket:

        async def say(**request):
            await socket.send(json.dumps(request))

        await say(id="join", action="subscribe", event_name=PATTERN, durable=NAME, ack_wait="30s", max_in_flight=100)
        while True:
            frame = json.loads(await socket.recv())
            match frame:
                case {"type": "event", "id": event_id}:
                    try:
                        process(frame)
                    except Exception as error:  # of any kind: another try may go better
                        print(f"event {event_id}: {error}", file=sys.stderr, flush=True)
                        await say(action="nack", id=event_id, delay_ms=1000)
                    else:
                        await say(action="ack", id=event_id)
                case {"type": "subscribed"}:
                    print(f"everything up to {frame['after']} is settled", file=sys.stderr, flush=True)
                case {"type": "error", "id": "join", "error": error}:
                    if "retry_after_ms" not in error:
                        sys.exit(error["message"])
                    raise TimeoutError(error["message"])
                case {"type": "error", "error": error}:  # what was not acknowledged comes again
                    print(error["message"], file=sys.stderr, flush=True)


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
        begin = asyncio.get_running_loop().time()
        try:
            await work()
        except (OSError, TimeoutError, ConnectionClosed, InvalidStatus) as error:
            lasted = asyncio.get_running_loop().time() - begin
            attempt = attempt + 1 if lasted < 10 else 0
            wait = seconds_until_return(error, attempt)
            print(f"{error}; back in {wait:.1f} s", file=sys.stderr, flush=True)
            await asyncio.sleep(wait)


asyncio.run(main())
