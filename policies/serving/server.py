"""Serves a policy to other programs over a websocket, in openpi's message format (``policies/serving/wire.py``).

    with PolicyServer(lambda: load_policy(folder), port=8000) as server:
        print(server.url)                           # ws://127.0.0.1:8000

Each client has a policy of its own, since a policy remembers; one of them thinks at a time. A request with an Origin header
comes from a web page and is refused, and so is a Host that is not this server's: no page can reach the policy by way of a
browser. Reachable from other machines only with a token, which no browser can put into a websocket's headers.

What this does not protect against: whoever may run programs as any user of this machine can connect to a loopback port, and
who can read the traffic of a network can read the token, since nothing is encrypted here; use an SSH tunnel. A policy server
moves nothing: limits stand in the process that owns the arm.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import importlib.util
import ipaddress
import logging
import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hardware.errors import EmbodiedError, RobotError
from policies.policy import Policy
from policies.serving.wire import (
    MAX_BYTES,
    MessageError,
    MissingLibraryError,
    answer_message,
    metadata,
    pack,
    read_observation,
    unpack,
    wants_reset,
)

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

_log = logging.getLogger(__name__)

MAX_CLIENTS = 4
#: A client that says nothing for so long is let go, one that does not finish its handshake sooner.
IDLE_S, HANDSHAKE_S = 60.0, 5.0
#: So many wrong tokens from one address, and it is not heard for a while.
WRONG_TOKENS, LOCKED_S = 5, 60.0
_START_S = 10.0


class PolicyServer:
    """A server in a thread of its own. ``make`` makes a policy for a client; it is called once per connection."""

    def __init__(
        self,
        make: Callable[[], Policy],
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        """``port`` 0 takes a free one. Raises ``EmbodiedError`` for an address beyond this machine without a ``token``."""
        if not is_loopback(host) and not token:
            raise EmbodiedError(f"a policy server at {host} can be reached from other machines and needs a token")
        self._make, self.host, self.port, self._token, self._idle_s = make, host, port, token, idle_s
        self._clients = 0
        self._wrong: dict[str, tuple[int, float]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policy-server", daemon=True)

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"ws://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def start(self) -> PolicyServer:
        """Listen. Raises ``EmbodiedError`` when the port is taken or the packages are missing."""
        if importlib.util.find_spec("websockets") is None or importlib.util.find_spec("msgpack") is None:
            raise MissingLibraryError(
                "serving policies needs the packages websockets and msgpack; run: pip install 'embodied[serve]'"
            )
        self._thread.start()
        self._ready.wait(_START_S)
        if self._failure is not None:
            raise EmbodiedError(
                f"cannot listen on {self.url}: {self._failure}; choose another --port"
            ) from self._failure
        return self

    def stop(self) -> None:
        """Close all connections and the port; safe to call twice."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_START_S)

    def __enter__(self) -> PolicyServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        from websockets.asyncio.server import serve

        self._loop, self._stop, self._turn = asyncio.get_running_loop(), asyncio.Event(), asyncio.Lock()
        server: Server
        async with serve(
            self._converse, self.host, self.port, process_request=self._admit, max_size=MAX_BYTES, max_queue=2,
            compression=None, open_timeout=HANDSHAKE_S, close_timeout=2.0, server_header=None,
        ) as server:  # fmt: skip
            self.port = int(next(iter(server.sockets)).getsockname()[1])
            self._ready.set()
            await self._stop.wait()

    # Who may come in --------------------------------------------------------------------------------------------------

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """None to let a request in, or the refusal."""
        if request.headers.get_all("Origin"):
            return connection.respond(http.HTTPStatus.FORBIDDEN, "web pages may not use this server\n")
        if self._token is None and request.headers.get_all("Host") not in self._hosts():
            return connection.respond(http.HTTPStatus.FORBIDDEN, "the Host header names another server\n")
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self._token is not None and (refusal := self._check_token(connection, request)) is not None:
            return refusal
        if self._clients >= MAX_CLIENTS:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        return None

    def _hosts(self) -> list[list[str]]:
        """What a Host header may say when only this machine can connect."""
        names = {"localhost", "127.0.0.1", "[::1]", f"[{self.host}]" if ":" in self.host else self.host}
        return [[f"{name}:{self.port}"] for name in names] + ([[name] for name in names] if self.port == 80 else [])

    def _check_token(self, connection: ServerConnection, request: Request) -> Response | None:
        address = str((connection.remote_address or ("?",))[0])
        wrong, since = self._wrong.get(address, (0, 0.0))
        now = time.monotonic()
        if wrong >= WRONG_TOKENS and now - since < LOCKED_S:
            return connection.respond(http.HTTPStatus.TOO_MANY_REQUESTS, "too many wrong tokens; wait a minute\n")
        said = request.headers.get_all("Authorization")
        wanted = f"Api-Key {self._token}"
        if len(said) == 1 and hmac.compare_digest(said[0].encode(), wanted.encode()):
            self._wrong.pop(address, None)
            return None
        if len(self._wrong) >= 1000:  # addresses are cheap for whoever has many
            self._wrong.clear()
        self._wrong[address] = (wrong % WRONG_TOKENS + 1, now)
        return connection.respond(http.HTTPStatus.UNAUTHORIZED, "a token is needed\n")

    # What is said -----------------------------------------------------------------------------------------------------

    async def _converse(self, connection: ServerConnection) -> None:
        """One client, from metadata to the end."""
        from websockets.exceptions import ConnectionClosed

        if self._clients >= MAX_CLIENTS:  # several handshakes may have been under way at once
            await connection.close(1013, "too many clients")
            return
        self._clients += 1
        try:
            async with self._turn:
                policy = await asyncio.to_thread(self._make)
                policy.reset()
            await connection.send(pack(metadata(policy)))
            while True:
                data = await asyncio.wait_for(connection.recv(), self._idle_s)
                async with self._turn:
                    answer = await asyncio.to_thread(_answer, policy, data)
                await connection.send(answer)
        except ConnectionClosed:
            return
        except asyncio.TimeoutError:  # another class than TimeoutError in Python 3.10
            await connection.close(1001, "idle")
        except MessageError as error:
            await self._refuse(connection, 1007, f"bad message [{_number(error, expected=True)}]: {error}")
        except Exception as error:  # whatever a policy may raise: it ends this connection, not the server
            await self._refuse(connection, 1011, f"internal error [{_number(error)}]; the server's log tells more")
        finally:
            self._clients -= 1

    async def _refuse(self, connection: ServerConnection, code: int, sentence: str) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            await connection.send(sentence)  # text instead of bytes is an error to openpi's clients
            await connection.close(code)
        except ConnectionClosed:
            return


def _answer(policy: Policy, data: Any) -> bytes:
    """One observation in, one chunk out. Raises ``MessageError`` for what the client did wrong."""
    if not isinstance(data, bytes):
        raise MessageError("a message must be bytes, not text")
    message = unpack(data)
    began = time.perf_counter()
    if wants_reset(message):
        policy.reset()
    observation, goal = read_observation(message, policy.cameras)
    try:
        chunk = policy.act(observation, goal)
    except RobotError as error:  # such as a picture that is missing: a sentence for whoever runs the robot
        raise MessageError(str(error)) from error
    return pack(answer_message(chunk, policy.cameras, 1000.0 * (time.perf_counter() - began)))


def _number(error: Exception, *, expected: bool = False) -> str:
    """A number under which the local log has the whole story; the client gets only the number."""
    number = secrets.token_hex(4)
    _log.warning("[%s] %s", number, error, exc_info=None if expected else error)
    return number


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
