"""A local cache of all entities of a type, equal to the server's, whatever goes away.

    python cache.py [URL [TYPE]]     # ws://127.0.0.1:4300/ws  auction

TOKEN in the environment is sent if it is there.
"""

import asyncio
import json
import os
import random
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

DEFAULTS = ["ws://127.0.0.1:4300/ws", "auction"]
URL, TYPE = sys.argv[1:] + DEFAULTS[len(sys.argv) - 1 :]
HEADERS = {"Authorization": f"Bearer {os.environ['TOKEN']}"} if "TOKEN" in os.environ else {}

HOPELESS = {1002, 1003, 1007, 1009}  # this program is at fault; so it is with 4000 to 4099

# By key: the version and the value of each entity.
cache = {}
# From where to go on: the last event that is in the cache, and which log it is of. None before there is a whole cache.
position = None


def changed(key, version, *value):
    """Your work: the cache has changed. Without a value the entity was deleted."""
    print(json.dumps({"key": key, "version": version, **({"value": value[0]} if value else {})}), flush=True)


def take(key, version, *value):
    """What changed while a snapshot was sent may come twice: the greater version counts."""
    if version <= cache.get(key, (0,))[0]:
        return
    if value:
        cache[key] = (version, value[0])
    else:
        cache.pop(key, None)
    changed(key, version, *value)


async def subscribe(socket, after=None):
    """Goes on after a position, or takes a snapshot."""
    global position
    position = after
    request = {"id": 1, "action": "subscribe", "event_name": f"state.{TYPE}.changed"}
    if after is None:
        cache.clear()
        print("from the beginning", flush=True)
    how = {"snapshot": True} if after is None else {"envelope": "full", "after": after[0], "log_id": after[1]}
    await socket.send(json.dumps({**request, **how}))


async def follow():
    """One connection, until it ends with an exception."""
    global position
    async with connect(URL, additional_headers=HEADERS) as socket:
        await subscribe(socket, position)
        while True:
            frame = json.loads(await socket.recv())
            match frame["type"]:
                case "entity":
                    take(frame["key"], frame["version"], frame["value"])
                case "snapshot_begin":
                    cache.clear()
                case "snapshot_end":
                    position = (frame["as_of"], frame["log_id"])
                    print(f"whole as of {frame['as_of']}", flush=True)
                case "event":
                    value = [frame["payload"]["value"]] if frame["payload"]["op"] == "put" else []
                    take(frame["payload"]["key"], frame["id"], *value)
                    position = (frame["id"], position[1])
                case "subscribed" if not frame["recovered"]:
                    # The log no longer reaches back that far, or it is another one.
                    await subscribe(socket)
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
        before = position
        try:
            await follow()
        except (OSError, TimeoutError, ConnectionClosed, InvalidStatus) as error:
            attempt = attempt + 1 if position == before else 0
            wait = seconds_until_return(error, attempt)
            print(f"{error}; back in {wait:.1f} s", file=sys.stderr, flush=True)
            await asyncio.sleep(wait)


asyncio.run(main())
