"""The chain of planners: who takes over, what the user is told, and that nothing moves when nobody has a plan."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from loopback_server import Behaviour, LoopbackServer, half, hang, reset, says, status

from embodied.agent import Agent
from embodied.plan import Home, Plan, Refuse
from embodied.planners import Planner
from embodied.remote.endpoint import Endpoint
from embodied.remote.fallback import FallbackPlanner
from embodied.remote.planner import RemotePlanner, Usage
from embodied.remote.waiting import TooSlow, within
from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import PlanError

CAMERA = CameraModel.look_at(
    Intrinsics.from_fov_y(128, 96, float(np.radians(36.0))), np.array([0.60, 0.0, 0.50]), np.array([0.19, 0.0, 0.0])
)
FRAME = Frame(np.full((96, 128, 3), 200, np.uint8), CAMERA, 0.0)
HOME = '{"calls": [{"skill": "home"}]}'
MINE = Plan(calls=(Refuse(reason="absent"),))


@dataclass
class Local:
    """A planner on this machine."""

    name: str = "local"
    scripted: bool = False
    answer: Plan | Exception = MINE
    asked: list[str] = field(default_factory=list)

    def plan(self, instruction: str, frame: Frame) -> Plan:
        self.asked.append(instruction)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def chain(server: LoopbackServer, local: Local, **more: object) -> FallbackPlanner:
    endpoint = Endpoint(server.url, "qwen3-vl", "rel1000_xy", budget_s=1.0, retries=0)
    return FallbackPlanner([RemotePlanner(endpoint), local], **more)  # type: ignore[arg-type]


def test_the_first_planner_answers_and_nobody_else_is_asked() -> None:
    local = Local()
    with LoopbackServer(says(HOME)) as server:
        planner = chain(server, local)
        assert isinstance(planner, Planner)
        assert planner.plan("go home", FRAME) == Plan(calls=(Home(),))
    assert local.asked == planner.notes == []
    assert planner.used is planner.planners[0]
    assert planner.last_usage is not None and planner.last_usage.requests == 1  # goes into the episode's log
    assert planner.name == "qwen3-vl at 127.0.0.1 + local"
    assert planner.usage.prompt_tokens == 1340


def test_a_planner_that_keeps_no_count_leaves_none_in_the_log() -> None:
    local = Local()
    with LoopbackServer(status(500)) as server:
        planner = chain(server, local, on_note=lambda note: None)
        assert planner.plan("go home", FRAME) == MINE
    assert planner.used is local and planner.last_usage is None


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (hang, "the remote planner at 127.0.0.1 did not answer within 1 s"),
        (reset, "the connection failed"),
        (half, "the connection failed"),
        (status(429), "too many requests"),
        (says("Sure! I will pick up the cube."), "did not answer with a plan"),
        (says('{"calls": [{"skill": "home"}, {"sk'), "half a plan"),
        (says('{"calls": [{"skill": "fire", "object": "cube", "point": [1, 1]}]}'), "is no skill"),
        (says('{"calls": [' + ",".join(['{"skill":"home"}'] * 10_000) + "]}"), "no plan needs more"),
    ],
)
def test_on_failure_the_next_takes_over_in_bounded_time_and_the_user_is_told(behaviour: Behaviour, why: str) -> None:
    told: list[str] = []
    with LoopbackServer(behaviour) as server:
        planner = chain(server, Local(), on_note=told.append)
        began = time.monotonic()
        assert planner.plan("pick up the cube", FRAME) == MINE
        assert time.monotonic() - began < 2.5
    assert told == planner.notes
    (note,) = told
    assert why in note
    assert note.endswith("; the local planner took over")


def test_without_a_listener_the_user_is_told_on_stderr(caplog: pytest.LogCaptureFixture) -> None:
    with LoopbackServer(status(500)) as server, caplog.at_level(logging.WARNING, logger="embodied.planner"):
        chain(server, Local()).plan("go home", FRAME)
    assert "took over" in caplog.text


def test_nothing_is_sent_without_consent_and_the_chain_says_so() -> None:
    endpoint = Endpoint("https://models.example.com/v1", "qwen3-vl", "rel1000_xy")
    planner = FallbackPlanner([RemotePlanner(endpoint), Local()])
    assert planner.plan("go home", FRAME) == MINE
    assert "EMBODIED_SEND_PICTURES_TO=models.example.com" in planner.notes[0]


def test_when_all_fail_nothing_moves() -> None:
    with LoopbackServer(status(500)) as server:
        planner = chain(server, Local(answer=PlanError("no such object")))
        with pytest.raises(PlanError, match="nothing moves: .*HTTP 500.*; no such object"):
            planner.plan("go home", FRAME)
    assert planner.used is None
    assert "nothing moves" in planner.notes[-1]


def test_a_planner_that_breaks_down_or_never_ends_is_left_behind() -> None:
    over = threading.Event()

    @dataclass
    class Endless(Local):
        name: str = "endless"

        def plan(self, instruction: str, frame: Frame) -> Plan:
            over.wait(10.0)
            return Plan(calls=(Home(),))

    planner = FallbackPlanner([Local("broken", answer=ZeroDivisionError("secret")), Endless(), Local()], wait_s=0.1)
    try:
        assert planner.plan("go home", FRAME) == MINE
    finally:
        over.set()
    (note,) = planner.notes
    assert "broken broke down (ZeroDivisionError)" in note
    assert "secret" not in note
    assert "endless did not answer" in note


def test_a_planner_that_could_not_be_reached_rests_and_is_asked_again_later() -> None:
    now = [0.0]
    with LoopbackServer(status(500), says(HOME)) as server:
        planner = chain(server, Local(), rest_s=60.0, clock=lambda: now[0])
        assert planner.plan("go home", FRAME) == MINE
        now[0] = 59.0
        assert planner.plan("go home", FRAME) == MINE
        assert len(server.requests) == 1
        assert "failed less than 60 s ago" in planner.notes[-1]
        now[0] = 61.0
        assert planner.plan("go home", FRAME) == Plan(calls=(Home(),))
    assert planner.used is planner.planners[0]


def test_a_bad_plan_says_nothing_about_the_next_question() -> None:
    with LoopbackServer(says("no idea"), says("no idea"), says(HOME)) as server:
        planner = chain(server, Local())
        assert planner.plan("do something", FRAME) == MINE
        assert planner.plan("go home", FRAME) == Plan(calls=(Home(),))


def test_scripted_is_named_when_any_planner_is() -> None:
    assert FallbackPlanner([Local(), Local("scripted", scripted=True)]).scripted
    assert not FallbackPlanner([Local()]).scripted
    assert FallbackPlanner([Local()]).usage == Usage()
    with pytest.raises(PlanError, match="at least one"):
        FallbackPlanner([])


def test_waiting_is_bounded_and_carries_values_and_errors_over() -> None:
    aborted: list[bool] = []
    over = threading.Event()
    began = time.monotonic()
    with pytest.raises(TooSlow):
        within(0.05, lambda: over.wait(5.0), abort=lambda: aborted.append(True))
    over.set()
    assert time.monotonic() - began < 1.0
    assert aborted == [True]
    assert within(5.0, lambda: 7) == 7

    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        within(5.0, fail)


def test_an_episode_goes_on_with_the_local_planner() -> None:
    with LoopbackServer(hang) as server:
        planner = chain(server, Local(answer=Plan(calls=(Home(),))))
        with Agent.simulated("scenes/first.json", planner=planner, policy="scripted") as agent:
            episode = agent.run("go home")
    assert episode.planner == "qwen3-vl at 127.0.0.1 + local"
    assert episode.plan == Plan(calls=(Home(),))
    assert planner.notes == ["the remote planner at 127.0.0.1 did not answer within 1 s; the local planner took over"]
