"""What RFC 6455 asks of a server, tried out on raw sockets; the groups are those of the Autobahn test suite.

Usage: ws_conformance.py echo|service HOST:PORT

`echo` is a server that returns every message, up to 16 MiB; `service` is the Event Handler, which takes messages up to
64 KiB and answers these ones with errors. Needs nothing but Python. Prints a line for each group; fails at the end,
with a line for each case that went wrong.
"""

import base64
import contextlib
import hashlib
import json
import random
import socket
import struct
import sys

KIND, ADDRESS = sys.argv[1:]
HOST, PORT = ADDRESS.rsplit(":", 1)
IS_ECHO = KIND == "echo"
PATIENCE = 10  # seconds
MAX_FAILURES = 5  # then the rest is not tried: each may have to wait
MAX_MESSAGE = 16 << 20 if IS_ECHO else 64 << 10

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80

RANDOM = random.Random(6455)
GROUPS = {}
FAILURES = []


def group(title):
    """A generator function yields (name of the case, function of a client that carries it out)."""

    def register(cases):
        GROUPS[title] = cases
        return cases

    return register


class Client:
    """One connection. `chop` is the number of bytes a write has."""

    def __init__(self, headers=(), chop=None):
        self.socket = socket.create_connection((HOST, int(PORT)), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.chop = chop
        self.buffer = b""
        key = base64.b64encode(RANDOM.randbytes(16)).decode()
        lines = [
            "GET /ws HTTP/1.1",
            f"Host: {ADDRESS}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            *headers,
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.take(1)
        status, *fields = head.decode().strip().split("\r\n")
        self.headers = {name.lower(): value.strip() for name, value in (field.split(":", 1) for field in fields)}
        assert status.startswith("HTTP/1.1 101 "), status
        accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        assert self.headers["sec-websocket-accept"] == base64.b64encode(accept).decode(), self.headers

    def send(self, *frames):
        data = b"".join(frames)
        step = self.chop or len(data)
        for start in range(0, len(data), step):
            self.socket.sendall(data[start : start + step])

    def take(self, count):
        while len(self.buffer) < count:
            chunk = self.socket.recv(1 << 18)
            if not chunk:
                raise EOFError("the connection has ended")
            self.buffer += chunk
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def frame(self):
        """The next frame: opcode and payload. What no server may send is an error."""
        first, second = self.take(2)
        assert first & FIN and not first & 0x70, f"first byte {first:#x}"
        assert not second & 0x80, "a server does not mask"
        length = second
        if second == 126:
            (length,) = struct.unpack("!H", self.take(2))
            assert length > 125, "not the shortest length"
        elif second == 127:
            (length,) = struct.unpack("!Q", self.take(8))
            assert length > 0xFFFF, "not the shortest length"
        opcode = first & 0xF
        assert opcode in (TEXT, BINARY, CLOSE, PING, PONG), f"opcode {opcode:#x}"
        payload = self.take(length)
        if opcode == TEXT:
            payload.decode()
        return opcode, payload

    def expect(self, opcode, payload):
        got = self.frame()
        assert got == (opcode, payload), f"expected {show((opcode, payload))}, not {show(got)}"

    def expect_message(self, opcode, payload):
        """The answer to a message."""
        if IS_ECHO:
            self.expect(opcode, payload)
        else:
            assert answer_of_service(opcode, self.frame()), show((opcode, payload))

    def expect_close(self, code):
        """A close frame with `code`, a number or a set of them, and then the end of the connection."""
        opcode, payload = self.frame()
        assert opcode == CLOSE, f"expected close, not {show((opcode, payload))}"
        (got,) = struct.unpack("!H", payload[:2])
        payload[2:].decode()
        assert got in (code if isinstance(code, set) else {code}), f"closed with {got}, not {code}"
        self.expect_end()

    def expect_end(self):
        """Nothing more comes, and the server closes without being asked to."""
        with contextlib.suppress(ConnectionError):
            left = self.buffer + self.socket.recv(1)
            assert left == b"", f"after the end: {left!r}"

    def expect_alive(self):
        payload = RANDOM.randbytes(8)
        self.send(frame(PING, payload))
        self.expect(PONG, payload)

    def say_good_bye(self):
        self.send(close(1000))
        self.expect_close(1000)


def answer_of_service(opcode, answer):
    """Whether the Event Handler answered a message as it should."""
    assert answer[0] == TEXT, show(answer)
    error = json.loads(answer[1])["error"]
    return (error["code"] == "unsupported_frame") == (opcode == BINARY)


def frame(opcode, payload=b"", fin=True, reserved=0, masked=True):
    """A frame as a client sends it."""
    length = len(payload)
    mask_bit = 0x80 if masked else 0
    head = bytes([(FIN if fin else 0) | reserved << 4 | opcode])
    if length < 126:
        head += bytes([mask_bit | length])
    elif length <= 0xFFFF:
        head += struct.pack("!BH", mask_bit | 126, length)
    else:
        head += struct.pack("!BQ", mask_bit | 127, length)
    if not masked:
        return head + payload
    mask = RANDOM.randbytes(4)
    stream = (mask * (length // 4 + 1))[:length]
    return head + mask + (int.from_bytes(payload) ^ int.from_bytes(stream)).to_bytes(length)


def begun(opcode, payload, declared):
    """The head of a frame of `declared` bytes, and its first ones."""
    return struct.pack("!BBQ", FIN | opcode, 0xFF, declared) + bytes(4) + payload


def close(code, reason=b""):
    return frame(CLOSE, struct.pack("!H", code) + reason)


def fragments(opcode, pieces):
    last = len(pieces) - 1
    return [frame(CONTINUATION if n else opcode, piece, fin=n == last) for n, piece in enumerate(pieces)]


def cut(payload, size):
    return [payload[start : start + size] for start in range(0, len(payload), size)]


def text_of(length):
    return b"*" * length


def bytes_of(length):
    return RANDOM.randbytes(min(length, 1 << 16)) * (length // (1 << 16) or 1)


def show(got):
    opcode, payload = got
    return f"opcode {opcode:#x}, {len(payload)} bytes {payload[:80]!r}"


def exchange(opcode, payload, frames=None):
    """Sends a message, has it back, and says good-bye."""

    def run(client):
        client.send(*(frames or [frame(opcode, payload)]))
        client.expect_message(opcode, payload)
        client.say_good_bye()

    return run


def refused(code, *frames, before=()):
    """Sends `frames`, gets what came `before`, and is closed with `code`."""

    def run(client):
        client.send(*frames)
        for opcode, payload in before:
            expect = client.expect_message if opcode in (TEXT, BINARY) else client.expect
            expect(opcode, payload)
        client.expect_close(code)

    return run


@group("1 framing")
def framing():
    for opcode, make in ((TEXT, text_of), (BINARY, bytes_of)):
        for length in (0, 1, 125, 126, 127, 128, 65535, 65536):
            yield f"{length} bytes, opcode {opcode}", exchange(opcode, make(length))
        for chop in (1, 2, 3, 7, 64, 997, 1024):
            length = 300 if chop < 64 else 65535
            yield f"in writes of {chop}, opcode {opcode}", exchange(opcode, make(length)), chop
    yield "no mask", refused(1002, frame(TEXT, b"a", masked=False))
    yield "length of 64 bits", refused({1002, 1009}, bytes([FIN | BINARY, 0xFF]) + b"\xff" * 8 + bytes(4))


@group("2 pings and pongs")
def pings():
    def ping(payload):
        def run(client):
            client.send(frame(PING, payload))
            client.expect(PONG, payload)
            client.say_good_bye()

        return run

    payloads = {"empty": b"", "text": b"Hello", "binary": b"\x00\xff\xfe\xfd", "125 bytes": b"\xfe" * 125}
    for name, payload in payloads.items():
        yield name, ping(payload)
        yield f"{name}, byte by byte", ping(payload), 1
    yield "126 bytes", refused(1002, frame(PING, b"\xfe" * 126))
    yield "pong of 126 bytes", refused(1002, frame(PONG, b"\xfe" * 126))

    def unsolicited(client):
        client.send(frame(PONG), frame(PONG, b"unasked"))
        client.expect_alive()
        client.say_good_bye()

    yield "unsolicited pongs", unsolicited

    def burst(client):
        payloads = [f"ping {n}".encode() for n in range(100)]
        client.send(*(frame(PING, payload) for payload in payloads))
        for payload in payloads:
            client.expect(PONG, payload)
        client.say_good_bye()

    yield "a hundred", burst
    yield "a hundred, byte by byte", burst, 1


@group("3 reserved bits")
def reserved_bits():
    for bits in range(1, 8):
        for opcode in (TEXT, BINARY, PING, PONG, CLOSE):
            payload = struct.pack("!H", 1000) if opcode == CLOSE else b"a"
            yield f"{bits:03b}, opcode {opcode}", refused(1002, frame(opcode, payload, reserved=bits))
        yield f"{bits:03b}, byte by byte", refused(1002, frame(TEXT, b"a", reserved=bits)), 1
    yield "after a message", after_message(refused(1002, frame(TEXT, b"a", reserved=4)))
    yield "in a continuation", refused(1002, frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"b", reserved=2))


def after_message(then):
    def run(client):
        client.send(frame(TEXT, b"first"))
        client.expect_message(TEXT, b"first")
        then(client)

    return run


@group("4 reserved opcodes")
def reserved_opcodes():
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        for payload in (b"", b"reserved"):
            name = f"{opcode}, {len(payload)} bytes"
            yield name, refused(1002, frame(opcode, payload))
            yield f"{name}, after a message", after_message(refused(1002, frame(opcode, payload), frame(PING)))
            yield f"{name}, byte by byte", refused(1002, frame(opcode, payload)), 1


@group("5 fragmentation")
def fragmentation():
    for opcode in (PING, PONG, CLOSE):
        yield f"control frame {opcode} in two", refused(1002, frame(opcode, fin=False), frame(CONTINUATION))
    for chop in (None, 1, 2):
        whole = b"fragment1fragment2"
        pieces = [b"fragment1", b"fragment2"]
        yield f"two, writes of {chop}", exchange(TEXT, whole, fragments(TEXT, pieces)), chop
        yield f"empty ones, writes of {chop}", exchange(BINARY, b"", fragments(BINARY, [b"", b"", b""])), chop
        yield f"empty in the middle, writes of {chop}", exchange(TEXT, b"ab", fragments(TEXT, [b"a", b"", b"b"])), chop

        def with_ping(client):
            first, second = fragments(TEXT, [b"fragment1", b"fragment2"])
            client.send(first, frame(PING, b"between"))
            client.expect(PONG, b"between")
            client.send(frame(PONG, b"unasked"), second)
            client.expect_message(TEXT, b"fragment1fragment2")
            client.say_good_bye()

        yield f"ping between, writes of {chop}", with_ping, chop
        yield f"all in one write with a ping, writes of {chop}", all_at_once, chop
        stray = frame(CONTINUATION, b"stray", fin=True)
        yield f"continuation of nothing, writes of {chop}", refused(1002, stray, frame(TEXT, b"a")), chop
        stray = frame(CONTINUATION, b"stray", fin=False)
        yield f"fragment of nothing, writes of {chop}", refused(1002, stray, frame(TEXT, b"a")), chop
        again = fragments(TEXT, [b"a", b"b"])
        before = [(TEXT, b"ab")]
        yield f"continuation after the end, writes of {chop}", refused(1002, *again, stray, before=before), chop
        inside = [frame(TEXT, b"a", fin=False), frame(TEXT, b"b")]
        yield f"new text inside, writes of {chop}", refused(1002, *inside), chop
        inside = [frame(BINARY, b"a", fin=False), frame(BINARY, b"b", fin=False)]
        yield f"new binary inside, writes of {chop}", refused(1002, *inside), chop

    def many(client):
        pieces = [b"%04d" % n for n in range(1000)]
        for n, piece in enumerate(fragments(TEXT, pieces)):
            client.send(piece)
            if n % 100 == 0:
                client.send(frame(PING, b"%d" % n))
                client.expect(PONG, b"%d" % n)
        client.expect_message(TEXT, b"".join(pieces))
        client.say_good_bye()

    yield "a thousand, with pings", many


def all_at_once(client):
    first, second = fragments(TEXT, [b"fragment1", b"fragment2"])
    client.send(first, frame(PING, b"between"), second)
    client.expect(PONG, b"between")
    client.expect_message(TEXT, b"fragment1fragment2")
    client.say_good_bye()


VALID_UTF8 = [
    "Hello-µ@ßöäüàá-UTF-8!!",
    "κόσμε",
    "\0",
    "\x7f\x80\u07ff\u0800\ud7ff\ue000\ufffd\uffff",
    "\U00010000\U0010ffff",
    "\ufffe\ufdd0\U0001fffe\U0010fffe",
    "𝄞 日本 🎉",
]
INVALID_UTF8 = {
    "a stray continuation": b"\x80",
    "two stray continuations": b"\xbf\xbf",
    "a lead alone": b"\xc3 ",
    "a lead of three alone": b"\xe2\x82 ",
    "a lead of four alone": b"\xf0\x9f\x8e ",
    "fe": b"\xfe",
    "ff": b"\xff",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "six bytes": b"\xfc\x84\x80\x80\x80\x80",
    "overlong /, two": b"\xc0\xaf",
    "overlong /, three": b"\xe0\x80\xaf",
    "overlong /, four": b"\xf0\x80\x80\xaf",
    "overlong 7f": b"\xc1\xbf",
    "overlong 7ff": b"\xe0\x9f\xbf",
    "overlong ffff": b"\xf0\x8f\xbf\xbf",
    "overlong nul": b"\xc0\x80",
    "first surrogate": b"\xed\xa0\x80",
    "last surrogate": b"\xed\xbf\xbf",
    "pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "beyond 10ffff": b"\xf4\x90\x80\x80",
    "f5": b"\xf5\x80\x80\x80",
}


@group("6 UTF-8")
def utf8():
    for text in VALID_UTF8:
        payload = text.encode()
        yield f"{text!a}", exchange(TEXT, payload)
        yield f"{text!a}, byte by byte", exchange(TEXT, payload), 1
        yield f"{text!a}, a fragment a byte", exchange(TEXT, payload, fragments(TEXT, cut(payload, 1)))
    good = "κόσμε".encode()
    for name, wrong in INVALID_UTF8.items():
        payload = good + wrong + b"edited"
        yield name, refused(1007, frame(TEXT, payload))
        yield f"{name}, byte by byte", refused(1007, frame(TEXT, payload)), 1
        yield f"{name}, a fragment a byte", refused(1007, *fragments(TEXT, cut(payload, 1)))
        # Fail fast: the end of the text never comes, and need not.
        yield f"{name}, not awaited", refused(1007, begun(TEXT, good + wrong + b"e", 1000))
        first, second = frame(TEXT, good, fin=False), frame(CONTINUATION, wrong + b"e", fin=False)
        yield f"{name}, not awaited in fragments", refused(1007, first, second)
        yield f"{name}, with a ping between", refused(1007, first, frame(PING), second, before=[(PONG, b"")])
    for size in (1, 2, 3):
        torn = "🎉".encode()[:size]
        yield f"torn after {size}", refused(1007, frame(TEXT, good + torn))
        yield f"torn after {size}, then the end", refused(1007, frame(TEXT, torn, fin=False), frame(CONTINUATION))
    yield "binary need not be", exchange(BINARY, b"\xff\xfe\x80")


@group("7 close")
def closing():
    def returned(data, code):
        def run(client):
            client.send(data)
            client.expect_close(code)

        return run

    yield "after a message", exchange(TEXT, b"Hello World!")
    yield "empty", returned(frame(CLOSE), 1000)
    yield "one byte", refused(1002, frame(CLOSE, b"a"))
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999):
        yield f"code {code}", returned(close(code, b"because"), code)
    for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        yield f"code {code}", refused(1002, close(code, b"because"))
    yield "reason of 123 bytes", returned(close(1000, b"*" * 123), 1000)
    yield "reason of 124 bytes", refused(1002, close(1000, b"*" * 124))
    yield "reason that is not UTF-8", refused(1007, close(1000, b"\xce\xba\xed\xa0\x80"))
    yield "byte by byte", returned(close(1000, "größe".encode()), 1000), 1
    yield "twice", returned(close(1000) + close(1001), 1000)
    yield "a ping after", returned(close(1000) + frame(PING), 1000)
    yield "a text after", returned(close(1000) + frame(TEXT, b"late"), 1000)
    yield "256 KiB before", large_then_close
    yield "amid a message", returned(frame(TEXT, b"fragment", fin=False) + close(1000), 1000)
    yield "amid a message, the rest after", returned(
        frame(TEXT, b"fragment1", fin=False) + close(1000) + frame(CONTINUATION, b"fragment2"), 1000
    )

    def client_goes_first(client):
        client.send(close(1000))
        client.socket.shutdown(socket.SHUT_WR)
        client.expect_close(1000)

    yield "with the end of the input", client_goes_first

    def gone(client):
        client.socket.shutdown(socket.SHUT_WR)
        client.expect_end()

    yield "without a word", gone


def large_then_close(client):
    payload = text_of(min(256 << 10, MAX_MESSAGE))
    client.send(frame(TEXT, payload), close(1000))
    client.expect_message(TEXT, payload)
    client.expect_close(1000)


@group("9 limits")
def limits():
    sizes = [size for size in (64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20, 16 << 20) if size <= MAX_MESSAGE]
    for size in sizes:
        yield f"{size} of text", exchange(TEXT, text_of(size))
        yield f"{size} of binary", exchange(BINARY, bytes_of(size))
    for size in (64, 1024, 4096, 65536):
        payload = text_of(min(4 << 20, MAX_MESSAGE))
        if IS_ECHO or size > 64:
            yield f"in fragments of {size}", exchange(TEXT, payload, fragments(TEXT, cut(payload, size)))
            yield f"in writes of {size}", exchange(BINARY, payload[: size * 4096]), size
    too_big = MAX_MESSAGE + 1
    yield "one byte too many", refused(1009, begun(BINARY, b"", too_big))
    yield "one byte too many, in fragments", refused(
        1009, frame(BINARY, bytes_of(MAX_MESSAGE), fin=False), frame(CONTINUATION, b"a", fin=False)
    )
    yield "declared: nearly all that there is", refused(1009, begun(BINARY, b"", (1 << 63) - 1))

    def round_trips(client):
        for size in (0, 16, 64, 256, 1024):
            for _ in range(100):
                client.send(frame(TEXT, text_of(size)))
                client.expect_message(TEXT, text_of(size))
        client.say_good_bye()

    yield "a hundred there and back", round_trips


@group("10 many in one write")
def many_in_one_write():
    def run(client):
        payloads = [RANDOM.randbytes(RANDOM.choice((0, 1, 125, 126, 1024, 1300))) for _ in range(200)]
        frames = []
        for payload in payloads:
            frames += [frame(PING, payload[:4]), *fragments(BINARY, cut(payload, 500) or [b""])]
        client.send(*frames)
        for payload in payloads:
            client.expect(PONG, payload[:4])
            client.expect_message(BINARY, payload)
        client.say_good_bye()

    for chop in (None, 1, 13, 1300):
        yield f"writes of {chop}", run, chop

    def large(client):
        payload = text_of(65536)
        for _ in range(10):
            client.send(*fragments(TEXT, cut(payload, 1300)))
            client.expect_message(TEXT, payload)
        client.say_good_bye()

    yield "64 KiB in fragments of 1300", large


@group("12 and 13 compression")
def compression():
    for offer in (
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits; server_no_context_takeover",
        "x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=9",
    ):

        def declined(client):
            assert "sec-websocket-extensions" not in client.headers, client.headers
            exchange(TEXT, b"plain")(client)

        yield f"{offer!r} is declined", declined, None, [f"Sec-WebSocket-Extensions: {offer}"]
        yield f"{offer!r}: a compressed frame", refused(1002, frame(TEXT, b"a", reserved=4)), None, [
            f"Sec-WebSocket-Extensions: {offer}"
        ]


def carry_out(title, name, run, chop=None, headers=()):
    try:
        client = Client(headers, chop)
        with contextlib.closing(client.socket):
            run(client)
    except Exception as error:  # whatever it is, it belongs to this case
        FAILURES.append(f"{title}: {name}: {type(error).__name__}: {error}")


def main():
    for title, cases in GROUPS.items():
        before = len(FAILURES)
        count = 0
        for case in cases():
            carry_out(title, *case)
            count += 1
            if len(FAILURES) == MAX_FAILURES:
                sys.exit("\n".join([*FAILURES, "the rest is not tried"]))
        print(f"{title}: {count} cases, {len(FAILURES) - before} failures", flush=True)
    if FAILURES:
        sys.exit("\n".join(FAILURES))
    print("all cases passed")


main()
