"""What no planner may make the arm do: plans without sense, and presses that nobody asked for."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from embodied.plan import Ask, Close, Home, Open, Pick, Place, Plan, Press, Push, Refuse
from embodied.plan_checks import check_plan, guarded, unasked
from hardware.errors import PlanError

BUTTON = Press(object="green button", point=(0.5, 0.5))


@pytest.mark.parametrize(
    "calls",
    [
        (Home(), Ask(object="cube")),
        (Refuse(reason="unsafe"), Home()),
        (Press(object="red cube", point=(0.5, 0.5)),),
        (Press(object="thing", point=(0.5, 0.5)),),
        (Push(object="green button", point=(0.5, 0.5), direction="left"),),
        (Pick(object="cube", point=(0.5, 0.5)), Place(relation="in", object="cube", point=(0.5, 0.501))),
    ],
)
def test_plans_that_make_no_sense_are_refused(calls: tuple[Any, ...]) -> None:
    with pytest.raises(PlanError):
        check_plan(Plan(calls=calls))


@pytest.mark.parametrize(
    ("words", "may"),
    [
        ("press the green button", True), ("now hit the green one", True), ("prses the green thing", True),
        ("push the button", True), ("drück den grünen Knopf", True), ("请按绿色按钮", True),
        ("appuie sur le bouton vert", True),
        ("boop the button", True), ("the green button, please", True), ("give the green thing a push", True),
        ("put the red cube in the blue bowl", False), ("push the red cube to the left", False),
        ("put the cube next to the button", False), ("do what the sign says", False), ("把红色方块放进蓝色碗里", False),
        ("use the gripper to grab the red one", False), ("tidy the table", False),
    ],
)  # fmt: skip
def test_a_button_is_pressed_only_when_the_words_speak_of_pressing(words: str, may: bool) -> None:
    plan = Plan(calls=(Home(), BUTTON))
    answer = guarded(plan, words)
    if may:
        assert answer is plan
    else:
        assert isinstance(answer.speech, Ask)
        assert "shall I press the green button?" in answer.speech.question


def test_the_check_raises_no_false_alarm_over_generated_instructions() -> None:
    """Every kind and split of instruction, with its true plan; and how many injected presses it catches."""
    from embodied.language import KINDS, examples, feasible_kinds, scene_fits
    from embodied.language.holdout import SPLITS
    from hardware.errors import SceneError
    from sim.generate import random_scene
    from sim.rendering import camera_model
    from sim.scene import Kind

    rng = np.random.default_rng(20261124)
    groups: tuple[tuple[Kind, ...], ...] = (
        ("cube", "cube", "cylinder", "bowl", "tray"), ("cube", "cube", "bowl", "drawer"), ("ball", "tray", "button"),
    )  # fmt: skip
    kinds: set[str] = set()
    total = devices = injected = caught = 0
    for split in SPLITS:
        for needed in groups:
            scene = random_scene(rng, kinds_required=needed)
            while not scene_fits(scene, split):
                scene = random_scene(rng, kinds_required=needed)
            camera = camera_model(scene.cameras[0], np.eye(4), None)
            for kind in feasible_kinds(scene):
                count = 10 if kind in ("press", "open", "close") else 3
                with suppress(SceneError):  # this scene has nothing of that kind after all
                    for example in examples(scene, camera, rng, count, split=split, kind=kind):
                        total += 1
                        kinds.add(kind)
                        devices += any(call.skill in ("press", "open", "close") for call in example.plan.calls)
                        assert guarded(example.plan, example.instruction) is example.plan, example.instruction
                        if example.plan.speech is None and kind not in ("press", "chain", "open", "close"):
                            injected += 1
                            caught += unasked(Plan(calls=(BUTTON,)), example.instruction) is not None
    assert kinds == set(KINDS)
    assert total >= 300
    assert devices >= 60
    assert caught >= 0.95 * injected


def test_the_verb_can_is_no_tin() -> None:
    close = Plan(calls=(Close(object="blue drawer", point=(0.5, 0.5)),))
    assert unasked(close, "if you can, don't leave the drawer open") is None
    assert unasked(close, "can you make the drawer as it was") is None
    assert unasked(close, "put the can beside the drawer") is close.calls[0]
    assert unasked(close, "we can roll the can to the drawer") is close.calls[0]


@pytest.mark.parametrize(
    "words", ["don't leave the red object open", "Robot, do not leave the thing open", "never keep it open"]
)
def test_words_against_a_state_ask_for_the_other(words: str) -> None:
    close = Plan(calls=(Close(object="red drawer", point=(0.5, 0.5)),))
    opening = Plan(calls=(Open(object="red drawer", point=(0.5, 0.5)),))
    assert unasked(close, words) is None
    assert unasked(opening, words) is opening.calls[0]
    assert unasked(opening, words.replace("open", "shut")) is None


def test_an_open_drawer_that_is_only_a_place_is_no_reason_to_close_it() -> None:
    close = Plan(calls=(Close(object="red drawer", point=(0.5, 0.5)),))
    assert unasked(close, "don't leave the cube before the open drawer") is close.calls[0]
    assert unasked(close, "don't leave the red one open, please") is None
