"""CloudEvents and signatures, judged by libraries that nobody here wrote.

publish ADDRESS   sends CloudEvents in both modes, made by the SDK
verify            reads deliveries from standard input, one JSON object a line; checks each, and prints what it holds
"""

import base64
import json
import sys
from urllib.parse import unquote

import httpx
from cloudevents.v1.conversion import to_binary, to_structured
from cloudevents.v1.http import CloudEvent, from_http
from standardwebhooks import Webhook

ATTRIBUTES = {
    "type": "auction.started",
    "source": "/auctions/1",
    "subject": "auction 7, lot 2",
    "traceid": "100 %",
    "datacontenttype": "application/json",
}
DATA = {"price": 1.5, "name": "\u00e4"}


def publish(address: str) -> None:
    for index, encode in enumerate((to_binary, to_structured)):
        headers, body = encode(CloudEvent({**ATTRIBUTES, "id": f"sdk-{index}"}, DATA))
        answer = httpx.post(f"http://{address}/publish", headers=headers, content=body)
        answer.raise_for_status()
        print(answer.headers["event-id"])


def verify() -> None:
    for line in sys.stdin:
        delivery = json.loads(line)
        headers, body = dict(delivery["headers"]), base64.b64decode(delivery["body"])
        for secret in delivery["secrets"]:
            Webhook(secret).verify(body, headers)
        if delivery["format"] == "json":
            print(json.dumps(json.loads(body)))
            continue
        event = from_http(headers, body)
        attributes = dict(event.get_attributes())
        if delivery["format"] == "cloudevents-binary":
            # The SDK leaves the values of headers as they came; the binding has them percent-encoded.
            attributes = {name: unquote(value) for name, value in attributes.items()}
        print(json.dumps({"attributes": attributes, "data": event.data}))


if __name__ == "__main__":
    publish(sys.argv[2]) if sys.argv[1] == "publish" else verify()
