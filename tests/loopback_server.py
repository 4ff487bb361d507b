"""An OpenAI-compatible server on loopback that can be told to misbehave, for tests over real sockets.

    with LoopbackServer(says('{"calls": [{"skill": "home"}]}')) as server:
        ...  server.url, server.requests

A behaviour is a function of the open connection and the request's body. Several are used one after the other, the last
one for all further requests.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def picture(self) -> NDArray[np.uint8]:
        """The picture in it (H, W, 3), RGB."""
        import cv2

        return np.asarray(
            cv2.imdecode(np.frombuffer(self.picture_bytes, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], np.uint8
        )

    @property
    def picture_bytes(self) -> bytes:
        """The picture as it was sent."""
        parts = next(m["content"] for m in self.body["messages"] if isinstance(m["content"], list))
        url = next(p["image_url"]["url"] for p in parts if p["type"] == "image_url")
        return base64.b64decode(url.partition(",")[2])

    @property
    def words(self) -> str:
        """The user's words in it."""
        parts = next(m["content"] for m in self.body["messages"] if isinstance(m["content"], list))
        return str(next(p["text"] for p in parts if p["type"] == "text"))


@dataclass
class Connection:
    """What a behaviour may do to whoever asks."""

    handler: BaseHTTPRequestHandler
    over: threading.Event  # set when the server stops: nobody hangs longer than the test

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.handler.send_header(name, value)
        self.handler.send_header("Content-Length", str(len(body) if length is None else length))
        self.handler.end_headers()
        self.handler.wfile.write(body)

    def reset(self) -> None:
        """Drop the connection so that the other side gets a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.handler.connection.close()


Behaviour = Callable[[Connection, Seen], None]


def completion(text: str | None, *, finish: str = "stop", **message: Any) -> bytes:
    """A chat completion that says ``text``."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 1340, "completion_tokens": 60, "total_tokens": 1400}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def says(text: str | None, **more: Any) -> Behaviour:
    return lambda connection, seen: connection.send(200, completion(text, **more))


def status(code: int, body: object = None, **headers: str) -> Behaviour:
    content = json.dumps(body if body is not None else {"error": {"message": f"error {code}"}}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda connection, seen: connection.send(code, content, named)


def hang(connection: Connection, seen: Seen) -> None:
    connection.over.wait(30.0)


def reset(connection: Connection, seen: Seen) -> None:
    connection.reset()


def half(connection: Connection, seen: Seen) -> None:
    """The first half of an answer, then the connection ends."""
    body = completion('{"calls": [{"skill": "home"}]}')
    connection.send(200, body[: len(body) // 2], length=len(body))


def drip(connection: Connection, seen: Seen) -> None:
    """A byte now and then: no single read ever takes long."""
    connection.handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not connection.over.wait(0.05):
        connection.handler.wfile.write(b"a")


def flood(connection: Connection, seen: Seen) -> None:
    """An answer without end."""
    connection.handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while not connection.over.is_set():
        connection.handler.wfile.write(b" " * 65536)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what these tests are about."""


class LoopbackServer:
    """Serves until closed; ``requests`` are those that arrived."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)
        self.requests: list[Seen] = []
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen = Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(content))
                outer.requests.append(seen)
                turn = min(len(outer.requests), len(outer.behaviours)) - 1
                self.close_connection = True
                outer.behaviours[turn](Connection(self, outer._over), seen)

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> LoopbackServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)
