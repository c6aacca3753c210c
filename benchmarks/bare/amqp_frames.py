"""amqp_frames.py HOST PORT QUEUE COUNT: confirmed publishing with nothing around it.

Frames made beforehand, written 500 messages at a time, at most 5,000 unconfirmed; 100 bytes each,
transient. What it reaches is what the broker can do for any client that asks for confirms.
"""

from __future__ import annotations

import socket
import struct
import sys

_BATCH, _WINDOW = 500, 5000


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(channel: int, class_id: int, method_id: int, arguments: bytes) -> bytes:
    return frame(1, channel, struct.pack(">HH", class_id, method_id) + arguments)


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def long(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


class Wire:
    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""

    def frames(self) -> list[bytes]:
        """What has come, at least one."""
        found: list[bytes] = []
        while not found:
            got = self.socket.recv(1 << 20)
            if not got:
                raise ConnectionError("the broker closed the connection")
            data, at = self.unread + got, 0
            while len(data) - at >= 8:
                kind, _, size = struct.unpack_from(">BHI", data, at)
                if len(data) - at < 8 + size:
                    break
                if kind != 8:  # a heartbeat
                    found.append(data[at + 7 : at + 7 + size])
                at += 8 + size
            self.unread = data[at:]
        return found

    def ask(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))
        self.frames()


def main(host: str, port: int, queue: bytes, count: int) -> None:
    wire = Wire(host, port)
    wire.ask(b"AMQP\0\0\x09\x01")
    login = long(b"") + short(b"PLAIN") + long(b"\0guest\0guest") + short(b"en_US")
    wire.ask(method(0, 10, 11, login))
    tune = method(0, 10, 31, struct.pack(">HIH", 2047, 131072, 0))
    wire.ask(tune, method(0, 10, 40, short(b"/") + short(b"") + b"\0"))
    wire.ask(method(1, 20, 10, short(b"")))
    wire.ask(method(1, 85, 10, b"\0"))
    publish = method(1, 60, 40, struct.pack(">H", 0) + short(b"") + short(queue) + b"\0")
    content = frame(2, 1, struct.pack(">HHQHB", 60, 0, 100, 0x1000, 1))
    message = publish + content + frame(3, 1, b"x" * 100)
    written = confirmed = 0
    single = set[int]()
    while confirmed < count:
        while written < count and written - confirmed < _WINDOW:
            size = min(_BATCH, count - written)
            wire.socket.sendall(message * size)
            written += size
        for answer in wire.frames():
            class_id, method_id, tag, multiple = struct.unpack_from(">HHQB", answer)
            assert (class_id, method_id) == (60, 80), "the broker did not take it"
            if multiple:
                confirmed = max(confirmed, tag)
                single = {one for one in single if one > tag}
            else:
                single.add(tag)
            while confirmed + 1 in single:
                confirmed += 1
                single.remove(confirmed)
    wire.ask(method(0, 10, 50, struct.pack(">H", 200) + short(b"") + struct.pack(">HH", 0, 0)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3].encode(), int(sys.argv[4]))
