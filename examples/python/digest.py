"""The digest of what a service holds of a type, as the server computes its own: see "Digests" in docs/protocol.md.

    python digest.py [BUCKETS]     # 256; lines such as {"key":"a1","version":57} on standard input
"""

import hashlib
import json
import sys


def first_8_bytes(data):
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def bucket(key, buckets=256):
    """In which bucket a key is."""
    return first_8_bytes(key.encode()) % buckets


def digest(versions, buckets=256):
    """Over entities: their versions by key."""
    sums = [0] * buckets
    for key, version in versions.items():
        sums[bucket(key, buckets)] ^= first_8_bytes(key.encode() + b"\0" + str(version).encode())
    return {"count": len(versions), "buckets": [f"{value:016x}" for value in sums]}


if __name__ == "__main__":
    held = {entity["key"]: entity["version"] for entity in map(json.loads, sys.stdin)}
    print(json.dumps(digest(held, *map(int, sys.argv[1:2]))))
