"""A policy on a server, as a ``Policy``: this project's own server, or any that speaks openpi's message format.

    step                0   1   2   3   4   5   6
    request, reply      #   #   #   -   -   #   #        - no reply in time, or the connection is lost
    executed from      c0  c1  c2  c2  c2  c5  c6        bounded: after BLIND_S without a reply the skill ends

While replies are missing the arm follows what is left of the last chunk, for half a second and not longer; then
``RobotError`` ends the skill, and the arm holds. A lost connection is made anew meanwhile, with growing pauses. A reply that
comes late is used from the step on that it is late by. An answer that is not a chunk of finite numbers ends the skill at
once.

To this project's own server every observation is sent, since the policy there remembers. A foreign server is asked when half
of its chunk has been used, its units and rate are the address's, and *done* is the arm coming to rest.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from hardware.errors import CheckpointError, RobotError
from hardware.robot import Observation
from policies.goal import Goal
from policies.images import View
from policies.outside.address import Address, resampled
from policies.outside.stillness import Stillness
from policies.policy import Chunk
from policies.serving.wire import (
    DIALECT,
    MAX_BYTES,
    MessageError,
    MissingLibraryError,
    observation_message,
    pack,
    read_actions,
    read_cameras,
    read_done,
    unpack,
)

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

Float = NDArray[np.float64]

TOKEN_VARIABLE = "EMBODIED_POLICY_TOKEN"
#: Seconds: to connect; for the first answer, when networks warm up; for the others, unless the address says.
CONNECT_S, FIRST_S, REPLY_S = 5.0, 15.0, 1.0
#: How long the arm follows old chunks.
BLIND_S = 0.5
#: Pauses between attempts to connect again, s.
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
#: Requests under way at once; a server that is further behind is not sent more.
_MAX_WAITING = 2
#: openpi's example policies, and what robots here are controlled at.
FOREIGN_HZ, CONTROL_HZ = 20.0, 20.0


@dataclass(frozen=True)
class _Answer:
    targets: Float  # (H, 6) ours, from the step now
    done: float | None


class WebsocketPolicy:
    """The client. Connects when made; raises ``CheckpointError`` if nobody answers there."""

    def __init__(self, address: Address, *, connect_s: float = CONNECT_S, first_s: float = FIRST_S) -> None:
        self._address, self._connect_s, self._first_s = address, connect_s, first_s
        self._reply_s = address.timeout_s or REPLY_S
        self._connection: ClientConnection | None = None
        self._heard = False  # whether this connection has given an answer yet
        self._pause, self._next_try = _PAUSE_S, 0.0
        self._waiting: deque[int] = deque()  # the steps whose answers are to come
        try:
            told = self._connect(connect_s)
        except (OSError, RobotError) as error:
            raise CheckpointError(
                f"no policy answers at {address.place}: {error}; start one there, for example with `embodied policy serve`"
            ) from error
        self._own = told.get("embodied") == DIALECT
        self.name = f"served:{str(told.get('policy', 'openpi'))[:64]}"
        self.control_hz = _rate(told) if self._own else CONTROL_HZ
        self.cameras: tuple[str, ...] = ()
        self.views: tuple[View, ...] = ()
        self._first_cameras: tuple[str, ...] = ()
        try:
            self._describe(told)
        except MessageError as error:
            raise CheckpointError(f"the policy server at {address.place} is not understood: {error}") from error
        self._still = Stillness(self.control_hz)
        self._blind_steps = max(1, round(BLIND_S * self.control_hz))
        self.reset()

    def _describe(self, told: dict[str, Any]) -> None:
        """The cameras, by the server's word or by the address."""
        if self._own:
            self._first_cameras = read_cameras(told) or ()
            self.views = _views(told.get("views"))
        else:
            self._first_cameras = tuple(dict.fromkeys(self._address.cameras.values()))
            self.views = ()  # whole pictures

    def reset(self) -> None:
        """A new skill begins; the server is told with the next observation."""
        self._fresh = True
        self.cameras = self._first_cameras
        self._step = self._blind = self._used = 0
        self._answer: _Answer | None = None
        self._waiting = deque(-1 for _ in self._waiting)  # answers to what is over are thrown away
        self._still.reset()

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        """The chunk (H, 6) and the done belief. Raises ``RobotError`` when the server has been silent for too long."""
        self._step += 1
        self._used += 1
        if self._answer is None or self._own or 2 * self._used >= len(self._answer.targets):
            fresh = self._ask(observation, goal)
            if fresh is not None:
                self._answer, self._used, self._blind = fresh, 0, 0
            else:
                self._blind += 1
        answer = self._answer
        if answer is None or self._blind > self._blind_steps or self._used >= len(answer.targets):
            self._drop()
            raise RobotError(f"the policy server at {self._address.place} does not answer any more; the arm holds")
        targets = answer.targets[self._used :].copy()
        # Old news do not end a skill.
        done = self._still.done(observation.q, targets[0]) if answer.done is None else answer.done
        return Chunk(targets, 0.0 if self._blind else done)

    def close(self) -> None:
        """Hang up; safe to call twice."""
        self._drop()

    # The wire ---------------------------------------------------------------------------------------------------------

    def _ask(self, observation: Observation, goal: Goal) -> _Answer | None:
        """Send an observation and wait; the newest answer in time, or None. Raises ``RobotError`` for a bad one."""
        from websockets.exceptions import ConnectionClosed

        if self._connection is None and not self._connect_again():
            return None
        connection = cast("ClientConnection", self._connection)
        newest: _Answer | None = None
        try:
            if len(self._waiting) < _MAX_WAITING:
                connection.send(self._message(observation, goal))
                self._waiting.append(self._step)
                self._fresh = False
            until = time.monotonic() + (self._reply_s if self._heard else self._first_s)
            while self._waiting:
                data = connection.recv(timeout=max(until - time.monotonic(), 0.0))
                self._heard = True
                sent = self._waiting.popleft()
                newest = self._read(data, self._step - sent if sent >= 0 else -1) or newest
        except TimeoutError:
            return newest
        except (ConnectionClosed, OSError):
            self._drop()
        return newest

    def _message(self, observation: Observation, goal: Goal) -> bytes:
        if self._own:
            return pack(observation_message(observation, goal, self._fresh))
        state = (observation.q / self._address.scale).astype(np.float32)
        message: dict[str, Any] = {"observation/state": state, "prompt": goal.skill}
        for key, camera in self._address.cameras.items():
            if camera not in observation.frames:
                raise RobotError(f"the policy wants a picture of the camera {camera!r} and there is none")
            message[key] = np.ascontiguousarray(observation.frames[camera].rgb)
        return pack(message)

    def _read(self, data: Any, age: int) -> _Answer | None:
        """An answer that is ``age`` steps old (-1: to a skill that is over). Raises ``RobotError``."""
        place = self._address.place
        if isinstance(data, str):
            self._drop()
            raise RobotError(f"the policy server at {place} refused: {_printable(data)}")
        try:
            message = unpack(data)
            targets, done, cameras = read_actions(message), read_done(message), read_cameras(message)
        except MessageError as error:
            self._drop()
            raise RobotError(f"the policy server at {place} answered wrongly: {error}; the arm holds") from error
        if age < 0:
            return None
        if self._own and cameras is not None:
            self.cameras = cameras
        if not self._own:
            targets = resampled(targets * self._address.scale, self._address.hz or FOREIGN_HZ, self.control_hz)
        targets[:, 5] = targets[:, 5].clip(0.0, 1.0)
        return _Answer(targets[age:], done) if age < len(targets) else None

    def _connect(self, open_s: float) -> dict[str, Any]:
        """Connect and hear the metadata. Raises ``OSError`` or ``RobotError``."""
        try:
            from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException
            from websockets.sync.client import connect
        except ImportError as error:
            raise MissingLibraryError(
                "a policy server needs the packages websockets and msgpack; run: pip install 'embodied[serve]'"
            ) from error
        token = os.environ.get(TOKEN_VARIABLE)
        headers = {"Authorization": f"Api-Key {token}"} if token else None
        with ExitStack() as stack:  # hangs up unless all goes well
            try:
                connection = stack.enter_context(
                    connect(
                        self._address.place, open_timeout=open_s, close_timeout=1.0, max_size=MAX_BYTES, max_queue=8,
                        compression=None, additional_headers=headers, proxy=None, user_agent_header=None,
                    )
                )  # fmt: skip
                # A server that does not read must not keep the arm waiting in send().
                wait = struct.pack("ll", int(self._reply_s), int(self._reply_s % 1.0 * 1e6) + 1)
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
                told = connection.recv(timeout=open_s)
            except InvalidURI as error:
                raise RobotError(f"{self._address.place} is no address like ws://host:8000") from error
            except InvalidHandshake as error:
                raise RobotError(
                    f"it did not let us in ({error}); does it need a token in {TOKEN_VARIABLE}?"
                ) from error
            except WebSocketException as error:
                raise RobotError(f"it hung up: {error}") from error
            if isinstance(told, str):
                raise RobotError(_printable(told))
            try:
                message = unpack(told)
            except MessageError as error:
                raise RobotError(f"it does not speak openpi's format: {error}") from error
            stack.pop_all()
        self._connection, self._heard, self._pause, self._next_try = connection, False, _PAUSE_S, 0.0
        self._waiting.clear()
        return message

    def _connect_again(self) -> bool:
        """One attempt, if it is time for one; the policy at the other end starts from nothing."""
        if self._answer is not None and time.monotonic() < self._next_try:
            return False
        try:
            self._connect(self._connect_s if self._answer is None else self._reply_s)
        except (OSError, RobotError):
            self._next_try = time.monotonic() + self._pause
            self._pause = min(2.0 * self._pause, _LONGEST_PAUSE_S)
            return False
        self._fresh = True
        return True

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._waiting.clear()
        if connection is not None:
            connection.close()


def _printable(text: str) -> str:
    """A stranger's words, short and without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text[:300])


def _rate(told: dict[str, Any]) -> float:
    hz = told.get("control_hz")
    if not isinstance(hz, int | float) or not 1.0 <= hz <= 1000.0:
        raise CheckpointError(
            f"the policy server says that it is controlled at {hz!r} Hz; expected a number from 1 to 1000"
        )
    return float(hz)


def _views(value: Any) -> tuple[View, ...]:
    """What the server's policy looks at. Raises ``CheckpointError``."""
    entries = value if isinstance(value, list) else []
    try:
        return tuple(View(**entry) for entry in entries)
    except TypeError as error:
        raise CheckpointError("the policy server describes its views in a way that is not understood") from error
