"""Messages between two workers."""

import json
import socket
import struct
import threading
from contextlib import suppress
from typing import Any

# A worker that is alive says so this often, and is lost after this long a silence.
ALIVE_EVERY = 2.0
LOST_AFTER = 60.0

_HEADER = struct.Struct("!4scQ")
_MAGIC = b"KSW1"
HELLO, WELCOME, REFUSED, ALIVE = b"H", b"W", b"R", b"A"
VALUE, VALUES, DATA, STOPPED, BYE = b"V", b"L", b"D", b"S", b"B"
PROBE = b"P"
_SHORT = 2**24


class Connection:
    """Messages over a socket: a kind of one byte, and a content."""

    def __init__(self, connected: socket.socket):
        self._socket = connected
        self._sending = threading.Lock()
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, kind: bytes, content: Any = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        with self._sending:
            self._socket.sendall(_HEADER.pack(_MAGIC, kind, len(body)))
            # The time-out of a socket is for all that one call sends.
            for start in range(0, len(body), 2**20):
                self._socket.sendall(body[start : start + 2**20])

    def send_if_free(self, kind: bytes) -> None:
        """Send a message without content, unless one is under way, which says as much."""
        body = json.dumps(None).encode()
        if self._sending.acquire(blocking=False):
            try:
                self._socket.sendall(_HEADER.pack(_MAGIC, kind, len(body)) + body)
            finally:
                self._sending.release()

    def receive(self, timeout: float) -> tuple[bytes, Any]:
        self._socket.settimeout(timeout)
        magic, kind, length = _HEADER.unpack(self._read(_HEADER.size))
        if magic != _MAGIC or (kind != DATA and length > _SHORT):
            raise ConnectionError("it does not speak as a worker does")
        body = self._read(length)
        return kind, body if kind == DATA else json.loads(body)

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._socket.recv(min(size - len(parts), 2**20))
            if not part:
                raise ConnectionError("its connection closed")
            parts += part
        return bytes(parts)

    def is_open(self) -> bool:
        """Whether the other side has not closed."""
        self._socket.settimeout(0)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def told(error: Exception) -> str:
    """Return in words why a connection failed."""
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return "its connection closed"
    return getattr(error, "strerror", None) or str(error)
