"""Serving policies: the same chunks through the wire, and what strangers and broken peers may do (nothing)."""

from __future__ import annotations

import http
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hardware.arm_spec import SO101
from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import CheckpointError, EmbodiedError, RobotError
from hardware.robot import Observation
from policies.goal import Goal
from policies.images import View
from policies.outside.address import load_outside, parse
from policies.outside.websocket_policy import TOKEN_VARIABLE, WebsocketPolicy
from policies.policy import Chunk, Policy
from policies.serving import wire
from policies.serving.server import MAX_CLIENTS, WRONG_TOKENS, PolicyServer, is_loopback

msgpack = pytest.importorskip("msgpack", reason="needs the extra 'serve': msgpack")
websockets = pytest.importorskip("websockets", reason="needs the extra 'serve': websockets")
connect = pytest.importorskip("websockets.sync.client").connect
websocket_errors = pytest.importorskip("websockets.exceptions")

GOAL = Goal("pick", np.array([0.2, 0.03, 0.0]), np.array([0.2, 0.03, 0.0]))


class Counting:
    """A policy whose chunk tells what it has been given: how often it was asked since its reset, and the state."""

    name, control_hz = "counting", 20.0
    cameras: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.asked = 0

    def reset(self) -> None:
        self.asked = 0

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        self.asked += 1
        targets = np.repeat(observation.q[None], 10, axis=0)
        targets[:, 0] = 0.001 * np.arange(10)
        targets[:, 1] = 0.01 * self.asked
        return Chunk(targets, 0.25)


class Looking(Counting):
    cameras = ("front",)
    views = (View("front", 32),)

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        if "front" not in observation.frames:
            raise RobotError("the camera gave no frame")
        frame = observation.frames["front"]
        k = frame.model.intrinsics
        sums = [
            frame.rgb.astype(int).sum() / 1e6,
            k.fx / 1e3,
            k.cy / 1e3,
            frame.model.T_base_camera[0, 3],
            frame.stamp_s,
        ]
        return Chunk(np.array([[*sums, 0.5]]), 0.0)


class Broken(Counting):
    def act(self, observation: Observation, goal: Goal) -> Chunk:
        raise KeyError("a secret of this machine")


def seen(step: int = 0, frames: dict[str, Frame] | None = None) -> Observation:
    return Observation(0.05 * step, SO101.home + 0.01 * step, SO101.home, frames or {})


@pytest.fixture
def server() -> Iterator[PolicyServer]:
    with PolicyServer(Counting, port=0) as running:
        yield running


# The wire ------------------------------------------------------------------------------------------------------------

NUMBERS = st.sampled_from(["<f8", "<f4", "<i8", "|u1", "|b1", "<u2"]).flatmap(
    lambda dtype: arrays(np.dtype(dtype), st.lists(st.integers(0, 4), max_size=3).map(tuple))
)


@given(NUMBERS)
def test_arrays_survive_the_wire(array: np.ndarray) -> None:
    back = wire.unpack(wire.pack({"a": array}))["a"]
    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == array.tobytes() and not back.flags.writeable


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_message_error(data: bytes) -> None:
    with suppress(wire.MessageError):
        assert isinstance(wire.unpack(data), dict)


def _array(**changes: Any) -> bytes:
    found = {b"__ndarray__": True, b"data": bytes(16), b"dtype": "<f8", b"shape": [2]}
    return msgpack.packb({"a": {**found, **{key.encode(): value for key, value in changes.items()}}})


@pytest.mark.parametrize(
    "data",
    [
        _array(dtype="|O"), _array(dtype="O"), _array(dtype="<f8,<f8"), _array(dtype="<c8"), _array(dtype="S8"),
        _array(dtype="V16"), _array(dtype=["a", "<f8"]), _array(shape=[3]), _array(shape=[-2]), _array(shape=[2**62, 2**62]),
        _array(shape=[True, True]), _array(shape=[1] * 5), _array(data="text"), _array(shape=2),
        msgpack.packb({"a": {b"__npgeneric__": True, b"data": {}, b"dtype": "<f8"}}), msgpack.packb([1, 2]),
        msgpack.packb({b"key": 1}), msgpack.packb({1: 1}), b"\x91" * 100_000, bytes(wire.MAX_BYTES + 1),
        msgpack.packb({"a": msgpack.ExtType(5, b"x")}), b"\xdf\xff\xff\xff\xff",
    ],
)  # fmt: skip
def test_what_is_no_plain_data_is_refused(data: bytes) -> None:
    with pytest.raises(wire.MessageError):
        wire.unpack(data)


@pytest.mark.parametrize("value", [np.array([object()]), np.array(["text"]), np.array([1j]), object(), {1, 2}])
def test_only_plain_data_is_sent(value: Any) -> None:
    with pytest.raises(wire.MessageError, match="cannot be sent"):
        wire.pack({"a": value})


def test_pictures_that_are_too_large_are_not_sent() -> None:
    with pytest.raises(wire.MessageError, match="smaller pictures"):
        wire.pack({"a": np.zeros((1200, 1200, 3), np.uint8)})


def test_openpis_own_client_library_packs_the_same_bytes() -> None:
    theirs = pytest.importorskip("openpi_client.msgpack_numpy", reason="openpi-client is not installed")
    message = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float64(0.5), "c": "pick", "d": True}
    assert theirs.packb(message) == wire.pack(message)
    assert np.array_equal(wire.unpack(theirs.packb(message))["a"], message["a"])
    assert np.array_equal(theirs.unpackb(wire.pack(message))["a"], message["a"])


# Server and client ---------------------------------------------------------------------------------------------------


def test_the_shipped_policy_gives_the_same_chunks_through_the_wire(rng: np.random.Generator) -> None:
    from policies.checkpoint import load_policy

    local = load_policy()
    with PolicyServer(load_policy, port=0) as running:
        served = load_outside(running.url + "?timeout=30")
        assert (served.name, served.control_hz, served.cameras) == ("served:point", local.control_hz, ())
        for skill in ("pick", "push"):
            local.reset()
            served.reset()
            goal = Goal(skill, rng.uniform(0.0, 0.2, 3), rng.uniform(0.0, 0.2, 3))
            for step in range(15):
                observation = Observation(0.05 * step, SO101.home + rng.normal(0.0, 0.1, 6), SO101.home)
                mine, theirs = local.act(observation, goal), served.act(observation, goal)
                assert np.array_equal(mine.targets, theirs.targets) and mine.done == theirs.done
        served.close()


def test_pictures_and_their_cameras_arrive_whole(rng: np.random.Generator) -> None:
    pose = np.eye(4)
    pose[0, 3] = 0.4
    rgb = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
    frame = Frame(rgb, CameraModel(Intrinsics(32, 24, 40.0, 41.0, 16.0, 12.0), pose), 1.5)
    with PolicyServer(Looking, port=0) as running:
        policy = load_outside(running.url)
        assert policy.cameras == ("front",) and policy.views == Looking.views
        chunk = policy.act(seen(0, {"front": frame}), GOAL)
        assert np.array_equal(chunk.targets, Looking().act(seen(0, {"front": frame}), GOAL).targets)
        with pytest.raises(RobotError, match="the camera gave no frame"):
            policy.act(seen(), GOAL)


def test_every_client_has_a_policy_of_its_own_and_reset_reaches_it(server: PolicyServer) -> None:
    first, second = load_outside(server.url), load_outside(server.url)

    def asked(policy: Policy) -> int:
        return round(100 * policy.act(seen(), GOAL).targets[0, 1])

    assert [asked(first), asked(first), asked(second), asked(first)] == [1, 2, 1, 3]
    first.reset()
    assert [asked(first), asked(second)] == [1, 2]


def test_a_policy_behind_a_server_carries_a_skill_out() -> None:
    from rich.console import Console

    from policies.checkpoint import load_policy
    from policies.evaluation import EvalConfig, evaluate

    config = EvalConfig(skills=("reach",), episodes=2)
    quiet = Console(quiet=True)
    with PolicyServer(load_policy, port=0) as running:
        served = evaluate(config, console=quiet, policy=load_outside(running.url + "?timeout=30"))
    assert served == evaluate(config, console=quiet)
    assert served["success"]["rate"] == 1.0


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")  # theirs
def test_openpis_own_client_talks_to_the_server(server: PolicyServer) -> None:
    theirs = pytest.importorskip("openpi_client.websocket_client_policy", reason="openpi-client is not installed")
    client = theirs.WebsocketClientPolicy("127.0.0.1", server.port)
    assert client.get_server_metadata()["policy"] == "counting"
    answer = client.infer({"observation/state": SO101.home, "skill": "pick", "point": np.zeros(3), "prompt": "pick"})
    assert answer["actions"].shape == (10, 6) and answer["server_timing"]["infer_ms"] >= 0.0
    client._ws.close()


# Strangers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin", ["http://localhost", "http://127.0.0.1:{port}", "http://localhost:x@evil.com", "null", "http://evil.com"]
)
def test_web_pages_are_refused(server: PolicyServer, origin: str) -> None:
    assert _status(server.url, origin=origin.format(port=server.port)) == http.HTTPStatus.FORBIDDEN


def _status(url: str, **options: Any) -> int:
    """With which HTTP status a connection is refused."""
    with pytest.raises(websocket_errors.InvalidStatus) as caught, connect(url, proxy=None, **options):
        pass
    return int(caught.value.response.status_code)


@pytest.mark.parametrize(
    "host", ["evil.com", "localhost.evil.com:{port}", "127.0.0.1:{port}.evil.com", "127.0.0.1:1", ""]
)
def test_other_hosts_are_refused(server: PolicyServer, host: str) -> None:
    request = (
        f"GET / HTTP/1.1\r\nHost: {host.format(port=server.port)}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        line.sendall(request.encode())
        assert line.recv(100).startswith(b"HTTP/1.1 403")


def test_other_machines_need_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        is_loopback("127.0.0.1") and is_loopback("::1") and not is_loopback("0.0.0.0") and not is_loopback("evil.com")
    )
    with pytest.raises(EmbodiedError, match="needs a token"):
        PolicyServer(Counting, host="0.0.0.0", port=0)
    with PolicyServer(Counting, port=0, token="right") as running:
        for wrong in (None, "wrong", "righ", "right2"):
            monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
            if wrong is not None:
                monkeypatch.setenv(TOKEN_VARIABLE, wrong)
            with pytest.raises(CheckpointError, match=TOKEN_VARIABLE):
                load_outside(running.url)
        monkeypatch.setenv(TOKEN_VARIABLE, "right")
        policy = load_outside(running.url)
        assert policy.act(seen(), GOAL).done == 0.25
        policy.close()


def test_guessing_tokens_is_locked_out() -> None:
    with PolicyServer(Counting, port=0, token="right") as running:
        tokens = ["wrong"] * WRONG_TOKENS + ["right"]
        codes = [_status(running.url, additional_headers={"Authorization": f"Api-Key {token}"}) for token in tokens]
    assert codes == [401] * WRONG_TOKENS + [429]


def test_more_clients_than_allowed_are_turned_away(server: PolicyServer) -> None:
    kept = [load_outside(server.url) for _ in range(MAX_CLIENTS)]
    with pytest.raises(CheckpointError, match="503"):
        load_outside(server.url)
    assert kept[0].act(seen(), GOAL).done == 0.25
    kept[0].close()
    until = time.monotonic() + 10.0
    while time.monotonic() < until:
        try:
            load_outside(server.url).close()
            break
        except CheckpointError:
            time.sleep(0.05)
    else:
        pytest.fail("a place that became free was not given again")
    for policy in kept:
        policy.close()


def _said(server: PolicyServer, *messages: bytes | str) -> str:
    """What the server answers to the last of some messages, as text."""
    with connect(server.url, max_size=None, proxy=None) as line:
        line.recv()
        for message in messages:
            line.send(message)
        answer = line.recv(timeout=20)
        assert isinstance(answer, str), "the server took it"
        with pytest.raises(websocket_errors.ConnectionClosed):
            line.recv(timeout=20)
    return answer


def _message(**changes: Any) -> bytes:
    message = wire.observation_message(seen(), GOAL, False)
    return wire.pack({**message, **changes})


BAD = {
    "garbage": b"\x00\xffgarbage", "text": "hello", "empty": b"", "list": msgpack.packb([1]),
    "shape": _message(**{"observation/state": np.zeros(7)}), "nan": _message(**{"observation/state": np.full(6, np.nan)}),
    "degrees": _message(**{"observation/state": np.full(6, 4000.0)}), "skill": _message(skill="juggle"),
    "unhashable": _message(skill=["pick"]), "point": _message(point=np.array([0.1, np.inf, 0.0])), "no map": _message(to="x"),
    "objects": _array(dtype="|O"), "stamp": _message(stamp=float("nan")),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_message_is_answered_and_hurts_nobody_else(server: PolicyServer, what: str) -> None:
    other = load_outside(server.url)
    answer = _said(server, BAD[what])
    assert answer.startswith("bad message [") and "Traceback" not in answer
    assert other.act(seen(), GOAL).done == 0.25
    other.close()


def test_a_huge_message_ends_its_connection_only(server: PolicyServer) -> None:
    other = load_outside(server.url)
    with connect(server.url, proxy=None) as line:
        line.recv()
        with pytest.raises(websocket_errors.ConnectionClosed):
            line.send(bytes(2 * wire.MAX_BYTES))
            line.recv(timeout=20)
    assert other.act(seen(), GOAL).done == 0.25
    other.close()


def test_a_pickle_is_not_opened(server: PolicyServer, tmp_path: Path) -> None:
    import pickle

    trap = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return open, (str(trap), "w")

    assert _said(server, pickle.dumps(Trap())).startswith("bad message")
    assert not trap.exists()


def test_what_went_wrong_inside_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    with PolicyServer(Broken, port=0) as running:
        answer = _said(running, _message())
    assert "secret" not in answer and "KeyError" not in answer
    number = answer.partition("[")[2].partition("]")[0]
    assert len(number) == 8 and number in caplog.text and "a secret of this machine" in caplog.text


def test_a_silent_client_is_let_go() -> None:
    with PolicyServer(Counting, port=0, idle_s=0.2) as running, connect(running.url, proxy=None) as line:
        line.recv()
        with pytest.raises(websocket_errors.ConnectionClosed):
            line.recv(timeout=20)


def test_a_taken_port_is_a_sentence(server: PolicyServer) -> None:
    with pytest.raises(EmbodiedError, match="choose another --port"):
        PolicyServer(Counting, port=server.port).start()


# Broken servers ------------------------------------------------------------------------------------------------------


@contextmanager
def scripted(*answers: Any, hello: Any = None) -> Iterator[str]:
    """A server that says what it is told to: bytes or text to send, None to be silent, an exception to hang up."""
    from websockets.sync.server import ServerConnection, serve

    told = list(answers)
    greeting = wire.pack(wire.metadata(Counting())) if hello is None else hello

    def converse(line: ServerConnection) -> None:
        line.send(greeting)
        for message in line:
            answer = told.pop(0) if told else None
            if isinstance(answer, Exception):
                return
            if callable(answer):
                answer = answer(message)
            if answer is not None:
                line.send(answer)

    with serve(converse, "127.0.0.1", 0, max_size=None) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{running.socket.getsockname()[1]}"
        running.shutdown()
        thread.join(10)


def _chunk(**changes: Any) -> bytes:
    targets = np.repeat(SO101.home[None], 20, axis=0)
    targets[:, 0] = 0.001 * np.arange(20)
    return wire.pack({"actions": targets, "done": 0.9, **changes})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\xffgarbage", "answered wrongly"), (_chunk(actions=np.zeros((5, 7))), r"\(H, 6\)"), ("Traceback\x1b[31m", "refused"),
        (_chunk(actions=np.full((5, 6), np.nan)), "NaN"), (_chunk(done=7.0), "between 0 and 1"), (wire.pack({}), "actions"),
        (_chunk(actions=np.zeros((0, 6))), "1 to 1000 rows"), (_chunk(actions=np.zeros((1001, 6))), "1 to 1000 rows"),
        (_chunk(done=float("nan")), "finite"),
    ],
)  # fmt: skip
def test_a_wrong_answer_ends_the_skill_in_words(answer: Any, words: str) -> None:
    with scripted(answer) as url:
        policy = load_outside(url)
        with pytest.raises(RobotError, match=words) as caught:
            policy.act(seen(), GOAL)
        assert "\x1b" not in str(caught.value)


def test_a_huge_answer_is_not_read() -> None:
    with scripted(bytes(2 * wire.MAX_BYTES)) as url:
        policy = WebsocketPolicy(parse(url), first_s=2.0)
        with pytest.raises(RobotError, match="does not answer any more"):
            policy.act(seen(), GOAL)


def test_a_silent_server_is_followed_blindly_for_half_a_second_only() -> None:
    with scripted(_chunk()) as url:  # one answer, and never another
        policy = load_outside(url + "?timeout=0.02")
        first = policy.act(seen(), GOAL)
        assert first.done == 0.9
        for step in range(1, 11):
            blind = policy.act(seen(), GOAL)
            assert np.array_equal(blind.targets, first.targets[step:]) and blind.done == 0.0
        with pytest.raises(RobotError, match="the arm holds"):
            policy.act(seen(), GOAL)


def test_a_server_that_never_answers_costs_a_bounded_wait() -> None:
    with scripted() as url:
        policy = WebsocketPolicy(parse(url), first_s=0.3)
        began = time.monotonic()
        with pytest.raises(RobotError, match="does not answer any more"):
            policy.act(seen(), GOAL)
        assert time.monotonic() - began < 5.0


def test_a_late_answer_is_used_from_where_it_is_due() -> None:
    def late(message: Any) -> bytes:
        time.sleep(0.5)
        return _chunk()

    with scripted(_chunk(), late) as url:
        policy = load_outside(url + "?timeout=0.1")
        policy.act(seen(), GOAL)
        policy.act(seen(), GOAL)  # the answer to this one comes too late
        time.sleep(0.7)
        assert policy.act(seen(), GOAL).targets[0, 0] == pytest.approx(0.001)  # and is one step old now


def test_an_answer_to_the_skill_before_is_thrown_away() -> None:
    old = _chunk(actions=np.full((20, 6), 0.75))
    with scripted(lambda message: (time.sleep(0.4), old)[1], _chunk()) as url:
        policy = WebsocketPolicy(parse(url + "?timeout=5"), first_s=0.05)
        with pytest.raises(RobotError):
            policy.act(seen(), GOAL)
        policy = WebsocketPolicy(parse(url + "?timeout=5"))
        policy._waiting.append(1)  # asked, not answered, when the skill ended
        policy.reset()
        assert list(policy._waiting) == [-1]


def test_a_lost_connection_is_made_anew_and_the_server_told_to_start_afresh() -> None:
    resets: list[bool] = []

    def remembering(message: Any) -> bytes:
        resets.append(wire.unpack(message)["reset"])
        return _chunk()

    with scripted(remembering, remembering, OSError(), remembering, remembering) as url:
        policy = load_outside(url + "?timeout=5")
        blind = []
        for _ in range(8):
            chunk = policy.act(seen(), GOAL)
            blind.append(chunk.done == 0.0)
            if len(resets) == 4:
                break
            time.sleep(0.15)
        assert resets == [True, False, True, False] and any(blind)


def test_nobody_there_is_a_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CheckpointError, match="embodied policy serve"):
        load_outside(f"ws://127.0.0.1:{port}")
    with pytest.raises(CheckpointError, match="address"):
        load_outside("ws://")


def test_what_is_no_policy_server_is_a_sentence() -> None:
    with scripted(hello=b"\xc1") as url, pytest.raises(CheckpointError, match="openpi's format"):
        load_outside(url)
    with (
        scripted(hello=wire.pack({"embodied": 1, "control_hz": -1.0})) as url,
        pytest.raises(CheckpointError, match="Hz"),
    ):
        load_outside(url)


def test_a_foreign_server_is_asked_in_its_words_and_units() -> None:
    asked: list[dict[str, Any]] = []

    def foreign(message: Any) -> bytes:
        asked.append(wire.unpack(message))
        actions = np.tile(np.array([90.0, 0.0, 0.0, 0.0, 0.0, 50.0]), (16, 1))
        actions[:, 1] = np.arange(16)
        return wire.pack({"actions": actions.astype(np.float32)})

    rgb = np.full((24, 32, 3), 7, np.uint8)
    frame = Frame(rgb, CameraModel(Intrinsics(32, 24, 40.0, 40.0, 16.0, 12.0), np.eye(4)), 0.0)
    with scripted(foreign, foreign, foreign, hello=wire.pack({})) as url:
        policy = load_outside(url + "?observation/image=front&hz=40&timeout=5")
        assert policy.cameras == ("front",) and policy.views == ()
        chunk = policy.act(seen(0, {"front": frame}), GOAL)
        assert chunk.targets.shape == (8, 6)  # 16 actions at 40 Hz are 0.4 s: 8 at 20 Hz
        np.testing.assert_allclose(chunk.targets[0], [np.pi / 2, 0, 0, 0, 0, 0.5], atol=1e-6)
        np.testing.assert_allclose(chunk.targets[:, 1], np.deg2rad(2.0 * np.arange(8)), atol=1e-6)
        for _ in range(3):
            policy.act(seen(0, {"front": frame}), GOAL)
        assert len(asked) == 1  # half of the chunk is used first
        policy.act(seen(0, {"front": frame}), GOAL)
    assert len(asked) == 2 and asked[0]["prompt"] == "pick" and np.array_equal(asked[0]["observation/image"], rgb)
    np.testing.assert_allclose(asked[0]["observation/state"][:5], np.rad2deg(SO101.home[:5]), rtol=1e-5)


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    code = (
        "import sys, tyro\nfrom embodied.commands.policy import Policy, run\n"
        "sys.exit(run(tyro.cli(Policy, args=['serve', *sys.argv[1:]])))"
    )
    words = ["--policy", "scripted", "--port", "0", "--json", "--token-file", str(tmp_path / "token")]
    with subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            token = (tmp_path / "token").read_text().strip()
            assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600 and len(token) >= 43
            with connect(told["url"], additional_headers={"Authorization": f"Api-Key {token}"}, proxy=None) as line:
                assert wire.unpack(line.recv())["policy"] == "scripted"
        finally:
            process.terminate()
        assert process.wait(20) == 0


def test_the_command_does_not_open_up_by_accident(tmp_path: Path) -> None:
    from embodied.commands.policy import Policy, run

    for serve in (
        Policy("serve", host="0.0.0.0"),
        Policy("serve", host="0.0.0.0", expose=True),
        Policy("serve", host="0.0.0.0", token_file=tmp_path / "t"),
    ):
        with pytest.raises(EmbodiedError, match="--expose and --token-file"):
            run(serve)
    assert not os.listdir(tmp_path)


def test_the_server_listens_on_loopback_only(server: PolicyServer) -> None:
    assert server.host == "127.0.0.1" and server.url == f"ws://127.0.0.1:{server.port}"
