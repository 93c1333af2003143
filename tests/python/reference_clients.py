"""The calls that microservices in Python make: httpx publishes and reads, websockets subscribes.

Usage: reference_clients.py HOST:PORT
"""

import asyncio
import json
import sys

import httpx
import websockets

PATIENCE = 20  # seconds

ADDRESS = sys.argv[1]


async def publish(event_name, payload):
    async with httpx.AsyncClient() as client:
        response = await client.post(
            f"http://{ADDRESS}/publish",
            json={"event_name": event_name, "payload": payload},
        )
        assert response.status_code == 200, response.text
        return response.json()


async def events(**parameters):
    async with httpx.AsyncClient() as client:
        response = await client.get(f"http://{ADDRESS}/events", params=parameters)
        assert response.status_code == 200, response.text
        return response.json()


async def receive(websocket):
    return json.loads(await asyncio.wait_for(websocket.recv(), PATIENCE))


async def request(websocket, action, event_name):
    await websocket.send(json.dumps({"action": action, "event_name": event_name}))
    # A ping answered: the request before it has been carried out.
    await asyncio.wait_for(await websocket.ping(), PATIENCE)


async def publisher():
    answer = await publish("user.created", {"user_id": "123"})
    assert answer == {"status": "ok", "message": "Event 'user.created' published.", "data": None}, answer


async def subscriber():
    async with websockets.connect(f"ws://{ADDRESS}/ws") as websocket:
        await request(websocket, "subscribe", "user.created")
        await publish("user.deleted", {})
        payload = {"user_id": "123", "email": "user@example.com", "tags": ["größe", None, 1.5]}
        await publish("user.created", payload)
        event = await receive(websocket)
        assert event == {"event_name": "user.created", "payload": payload}, event

        await request(websocket, "unsubscribe", "user.created")
        await request(websocket, "subscribe", "mark")
        await publish("user.created", {})
        await publish("mark", {})
        event = await receive(websocket)
        assert event == {"event_name": "mark", "payload": {}}, event


async def reader():
    body = await events(event_name="user.created")
    assert (body["status"], body["message"]) == ("ok", "success"), body
    first = body["data"][0]
    assert first["event_name"] == "user.created" and first["payload"] == {"user_id": "123"}, first
    assert first["source"] == "api" and first["status"] == "processed", first
    assert isinstance(first["id"], int) and first["created_at"].endswith("Z"), first
    everything = await events()
    assert {item["event_name"] for item in everything["data"]} >= {"user.created", "user.deleted"}, everything


async def many_subscribers():
    sockets = [await websockets.connect(f"ws://{ADDRESS}/ws") for _ in range(20)]
    for websocket in sockets:
        await request(websocket, "subscribe", "bid")
    await asyncio.gather(*(publish("bid", n) for n in range(20)))
    received = await asyncio.gather(*(collect(websocket, 20) for websocket in sockets))
    assert sorted(received[0]) == list(range(20)), received[0]
    assert all(order == received[0] for order in received), "every subscriber sees the same order"
    for websocket in sockets:
        await websocket.close()


async def collect(websocket, count):
    return [(await receive(websocket))["payload"] for _ in range(count)]


async def main():
    for client in (publisher, subscriber, reader, many_subscribers):
        await asyncio.wait_for(client(), 2 * PATIENCE)
    print("all clients served")


asyncio.run(main())
