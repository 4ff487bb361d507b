"""Points become metres, and what cannot be reached is said before anything moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodied.grounding import (
    BESIDE_M,
    PUSH_M,
    Grounder,
    Ledger,
    Moved,
    height_at,
    in_picture,
    on_table,
    picture_direction,
    usual_size,
)
from embodied.plan import Close, Open, Pick, Place, Plan, Point, Push, Refuse
from hardware.camera_model import CameraModel, Intrinsics
from hardware.errors import PlanError, UnreachableError

CAMERA = CameraModel.look_at(
    Intrinsics.from_fov_y(512, 384, float(np.radians(36.0))), np.array([0.60, 0.0, 0.50]), np.array([0.19, 0.0, 0.0])
)
GROUNDER = Grounder(CAMERA)

HOLDING = Ledger(held=Moved("red cube", np.array([0.2, 0.1]), np.array([0.2, 0.1, 0.0]), 0.03))

near = st.tuples(st.floats(0.14, 0.28), st.floats(-0.12, 0.12))


def at(x: float, y: float, z: float = 0.0) -> Point:
    u, v = in_picture(CAMERA, np.array([x, y, z]))
    return u, v


@given(near)
def test_a_foot_seen_in_the_picture_is_found_again_on_the_table(xy: tuple[float, float]) -> None:
    assert np.allclose(on_table(CAMERA, at(*xy)), [*xy, 0.0], atol=1e-9)


@given(near, st.floats(0.0, 0.12))
def test_foot_and_top_give_the_height(xy: tuple[float, float], height: float) -> None:
    assert height_at(CAMERA, np.array([*xy, 0.0]), at(*xy, height)) == pytest.approx(height, abs=1e-9)


@pytest.mark.parametrize(
    ("direction", "expected"), [("right", (0, 1)), ("left", (0, -1)), ("front", (1, 0)), ("behind", (-1, 0))]
)
def test_directions_are_those_of_the_picture(direction: str, expected: tuple[float, float]) -> None:
    assert np.allclose(picture_direction(CAMERA, direction), expected, atol=1e-9)  # type: ignore[arg-type]


def test_directions_follow_a_camera_that_stands_elsewhere() -> None:
    # From the arm's left side, looking across the table: the picture's right is then away from the arm.
    camera = CameraModel.look_at(CAMERA.intrinsics, np.array([0.19, 0.6, 0.5]), np.array([0.19, 0.0, 0.0]))
    right = picture_direction(camera, "right")
    before, after = camera.project(np.array([[0.19, 0.0, 0.0], [0.19 + 0.05 * right[0], 0.05 * right[1], 0.0]]))
    assert after[0] > before[0] + 10
    assert abs(after[1] - before[1]) < 1e-6


def test_a_point_above_the_horizon_is_no_place_on_the_table() -> None:
    low = CameraModel.look_at(CAMERA.intrinsics, np.array([0.6, 0.0, 0.1]), np.array([0.2, 0.0, 0.08]))
    with pytest.raises(PlanError, match="horizon"):
        on_table(low, (0.5, 0.0))


def test_pick_and_place_in_a_bowl() -> None:
    plan = Plan(
        calls=(
            Pick(object="red cube", point=at(0.20, 0.05)),
            Place(relation="in", object="blue bowl", point=at(0.22, -0.10)),
        )
    )
    pick, place = GROUNDER.check(plan)
    assert pick.goal is not None
    assert place.goal is not None
    assert pick.goal.skill == "pick"
    assert place.goal.skill == "bowl"
    assert np.allclose(pick.goal.point, [0.20, 0.05, 0.0], atol=1e-6)
    assert np.allclose(place.goal.to, [0.22, -0.10, 0.0], atol=1e-6)


def test_stacking_uses_the_top_for_the_height() -> None:
    call = Place(relation="on", object="green cube", point=at(0.2, 0.0), top=at(0.2, 0.0, 0.033))
    goal = GROUNDER.ground(call, HOLDING).goal
    assert goal is not None
    assert goal.skill == "stack"
    assert goal.point[2] == pytest.approx(0.033, abs=1e-6)


def test_stacking_without_or_with_an_absurd_top_takes_the_usual_height() -> None:
    for top in (None, at(0.2, 0.0, 0.14)):
        call = Place(relation="on", object="green cube", point=at(0.2, 0.0), top=top)
        goal = GROUNDER.ground(call, HOLDING).goal
        assert goal is not None
        assert goal.point[2] == pytest.approx(usual_size("green cube")[1])


@pytest.mark.parametrize("direction", ["left", "right", "front"])
def test_beside_is_clear_of_the_reference(direction: str) -> None:
    call = Place(relation=direction, object="red ball", point=at(0.19, 0.0))  # type: ignore[arg-type]
    goal = GROUNDER.ground(call, HOLDING).goal
    assert goal is not None
    assert goal.skill == "place"
    offset = goal.to[:2] - [0.19, 0.0]
    along = float(offset @ picture_direction(CAMERA, direction))  # type: ignore[arg-type]
    assert along == pytest.approx(0.5 * usual_size("red ball")[0] + BESIDE_M, abs=1e-6)
    assert float(np.linalg.norm(offset)) == pytest.approx(along, abs=1e-6)


def test_beside_something_at_the_edge_says_that_no_spot_is_in_reach() -> None:
    call = Place(relation="front", object="red tray", point=at(0.30, 0.0))
    with pytest.raises(UnreachableError, match="in front of the red tray"):
        GROUNDER.ground(call, HOLDING)


def test_a_push_goes_eight_centimetres_and_less_at_the_edge() -> None:
    free = GROUNDER.ground(Push(object="red cube", point=at(0.2, 0.0), direction="right"), Ledger()).goal
    assert free is not None
    assert np.allclose(free.to - free.point, [0.0, PUSH_M, 0.0], atol=1e-6)
    edge = GROUNDER.ground(Push(object="red cube", point=at(0.29, 0.0), direction="front"), Ledger()).goal
    assert edge is not None
    assert 0.05 <= edge.to[0] - edge.point[0] < PUSH_M


def test_out_of_reach_is_one_sentence_with_the_distance() -> None:
    plan = Plan(
        calls=(Pick(object="red cube", point=at(0.20, 0.0)), Place(relation="in", object="blue bowl", point=(0.5, 0.9)))
    )
    far = Plan(calls=(Pick(object="red cube", point=at(0.38, 0.0)),))
    with pytest.raises(UnreachableError, match=r"^the red cube is out of reach: it is 34 cm from") as error:
        GROUNDER.check(far)
    assert "\n" not in str(error.value)
    with pytest.raises(UnreachableError, match="blue bowl is out of reach"):
        GROUNDER.check(plan)


def test_a_moved_object_is_looked_for_where_it_was_put() -> None:
    plan = Plan(
        calls=(
            Pick(object="red cube", point=at(0.20, 0.05)),
            Place(relation="right", object="blue ball", point=at(0.19, -0.05)),
            Pick(object="green cube", point=at(0.15, 0.0)),
            Place(relation="on", object="red cube", point=at(0.20, 0.05), top=at(0.20, 0.05, 0.03)),
        )
    )
    steps = GROUNDER.check(plan)
    beside, stacked = steps[1].goal, steps[3].goal
    assert beside is not None
    assert stacked is not None
    assert np.allclose(stacked.point[:2], beside.to[:2])
    assert stacked.point[2] == pytest.approx(0.03, abs=1e-6)


def test_a_pushed_object_is_picked_up_where_it_was_pushed_to() -> None:
    push = Push(object="red cube", point=at(0.2, 0.0), direction="right")
    steps = GROUNDER.check(Plan(calls=(push, Pick(object="red cube", point=at(0.2, 0.0)))))
    assert steps[1].goal is not None
    assert np.allclose(steps[1].goal.point, [0.2, PUSH_M, 0.0], atol=1e-6)


def test_two_objects_of_one_name_are_kept_apart_by_their_points() -> None:
    push = Push(object="red cube", point=at(0.2, 0.0), direction="right")
    steps = GROUNDER.check(Plan(calls=(push, Pick(object="red cube", point=at(0.25, -0.08)))))
    assert steps[1].goal is not None
    assert np.allclose(steps[1].goal.point, [0.25, -0.08, 0.0], atol=1e-6)


def test_a_drawer_that_was_opened_is_closed_where_its_handle_is() -> None:
    handle = at(0.19, 0.0)
    steps = GROUNDER.check(
        Plan(calls=(Open(object="red drawer", point=handle), Close(object="red drawer", point=handle)))
    )
    assert steps[1].goal is not None
    assert np.allclose(steps[1].goal.point, [0.14, 0.0, 0.0], atol=1e-4)


def test_several_objects_in_one_container_are_spread() -> None:
    tray = at(0.22, -0.08)
    calls = tuple(
        call
        for k in range(3)
        for call in (
            Pick(object="red cube", point=at(0.14 + 0.05 * k, 0.08)),
            Place(relation="in", object="white tray", point=tray),
        )
    )
    goals = [step.goal for step in GROUNDER.check(Plan(calls=calls)) if step.goal and step.goal.skill == "bowl"]
    spots = [goal.to for goal in goals]
    apart = [float(np.linalg.norm(a - b)) for i, a in enumerate(spots) for b in spots[:i]]
    assert min(apart) > 0.03
    assert all(np.linalg.norm(spot[:2] - [0.22, -0.08]) < 0.025 for spot in spots)
    # Eyes look for the tray where it is, not for one whose middle is where the thing is let go.
    assert all(np.allclose(goal.point[:2], [0.22, -0.08], atol=1e-6) for goal in goals)
    assert all(np.array_equal(goal.to_move().point, goal.to) for goal in goals)


def test_a_container_that_is_pointed_at_twice_a_little_apart_is_one_container() -> None:
    calls = tuple(
        call
        for k in range(2)
        for call in (
            Pick(object="red cube", point=at(0.14 + 0.05 * k, 0.08)),
            Place(relation="in", object="white tray", point=at(0.22 + 0.003 * k, -0.08)),
        )
    )
    goals = [step.goal for step in GROUNDER.check(Plan(calls=calls)) if step.goal and step.goal.skill == "bowl"]
    assert np.linalg.norm(goals[0].to - goals[1].to) > 0.03


def test_senseless_plans_are_refused_with_a_reason() -> None:
    pick = Pick(object="red cube", point=at(0.2, 0.0))
    with pytest.raises(PlanError, match="still holds the red cube"):
        GROUNDER.check(Plan(calls=(pick, Pick(object="red ball", point=at(0.2, 0.08)))))
    with pytest.raises(PlanError, match="too large"):
        GROUNDER.check(Plan(calls=(Pick(object="red bowl", point=at(0.2, 0.0)),)))
    with pytest.raises(PlanError, match="stand alone"):
        GROUNDER.check(Plan(calls=(pick, Refuse(reason="absent"))))
    with pytest.raises(PlanError, match="holds nothing"):
        GROUNDER.check(Plan(calls=(Place(relation="in", object="blue bowl", point=at(0.2, 0.0)),)))
