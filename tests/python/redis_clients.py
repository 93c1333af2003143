"""What services of the auction system do by Redis, here by redis-py, with an Event Handler on the other side.

Usage: redis_clients.py REDIS_URL HOST:PORT

The Event Handler is to send and hear, to call itself EVENT_HANDLER, and to have a service that rejects
`payment:failed`.
"""

import datetime
import json
import sys
import time
import uuid

import httpx
import redis

PATIENCE = 20  # seconds

REDIS_URL, ADDRESS = sys.argv[1:]
CLIENT = redis.Redis.from_url(REDIS_URL, decode_responses=True)


def post(event):
    response = httpx.post(f"http://{ADDRESS}/publish", json=event)
    assert response.status_code == 200, response.text


def stored(name):
    return httpx.get(f"http://{ADDRESS}/events", params={"event_name": name, "limit": 1000}).json()["data"]


def until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"never: {what}")


def publish(event_type, data):
    envelope = {
        "id": str(uuid.uuid4()),
        "timestamp": int(time.time() * 1000),
        "type": event_type,
        "source": "AUCTION_ENGINE",
        "version": "1.0.0",
        "data": data,
    }
    text = json.dumps(envelope)
    CLIENT.publish(f"events:{event_type}", text)
    CLIENT.publish("events:all", text)


def listed(key):
    return [json.loads(text) for text in CLIENT.lrange(key, 0, -1)]


def receive(subscriber):
    message = until("a message comes", lambda: subscriber.get_message(ignore_subscribe_messages=True, timeout=1))
    return message["channel"], json.loads(message["data"])


def main():
    subscriber = CLIENT.pubsub()
    subscriber.subscribe("events:lot:won", "events:all")
    until("both are confirmed", lambda: subscriber.get_message(timeout=1))
    until("both are confirmed", lambda: subscriber.get_message(timeout=1))

    # From the Event Handler.
    payload = {"price": 1.5, "name": 'ä "b"', "lots": [1, 2], "none": None}
    post({"event_name": "lot:won", "payload": payload})
    came = [receive(subscriber), receive(subscriber)]
    assert sorted(channel for channel, _ in came) == ["events:all", "events:lot:won"], came
    won = came[0][1]
    assert won == came[1][1] and list(won) == ["id", "timestamp", "type", "source", "version", "data"], came
    assert (won["type"], won["source"], won["data"]) == ("lot:won", "EVENT_HANDLER", payload), won
    assert uuid.UUID(won["id"]).version == 5, won

    # To the Event Handler, which does not send it again.
    for n in range(20):
        publish("bid:placed", {"n": n, "name": "ä"})
    events = until("they are stored", lambda: len(stored("bid:placed")) >= 20 and stored("bid:placed"))
    assert [event["payload"] for event in events] == [{"n": n, "name": "ä"} for n in range(20)], events
    assert all(event["source"] == "AUCTION_ENGINE" for event in events), events
    came = [receive(subscriber) for _ in range(20)]
    assert [event["data"]["n"] for _, event in came] == list(range(20)), came
    post({"event_name": "lot:won", "payload": {}})
    last = [receive(subscriber)[1] for _ in range(2)]
    assert last[0] == last[1] and last[0]["data"] == {}, last
    assert len(stored("bid:placed")) == 20

    # The lists, the newest first.
    assert listed("events:history:lot:won") == [last[0], won]
    assert listed("events:history:all") == [last[0], won]

    post({"event_name": "payment:failed", "payload": {"order": 7}})
    letter = until("the dead letter is there", lambda: listed("events:deadletter"))[0]
    assert list(letter) == ["event", "error"] and letter["event"]["data"] == {"order": 7}, letter
    assert letter["event"] == listed("events:history:payment:failed")[0], letter
    error = letter["error"]
    assert list(error) == ["message", "stack", "timestamp"] and "billing" in error["message"], letter
    assert datetime.datetime.fromisoformat(error["timestamp"].replace("Z", "+00:00")).tzinfo, letter
    print("all clients served")


main()
