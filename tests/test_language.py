"""The instruction grammar says what it means: every plan is right for its scene, and held-out words stay held out."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from embodied.language import (
    KINDS,
    Example,
    contains_holdout,
    example,
    examples,
    feasible_kinds,
    holdout_pairs,
    scene_fits,
    trained_pairs,
)
from embodied.language.holdout import HELD_OUT_LABELS, HELD_OUT_WORDS
from embodied.language.templates import HELD_OUT, TRAIN
from embodied.language.view import handle_foot, look
from embodied.plan import Ask, Close, Home, Open, Pick, Place, Press, Push, Refuse
from hardware.camera_model import CameraModel, Intrinsics
from hardware.errors import SceneError
from sim.generate import arranged, random_scene
from sim.scene import COLORS, CONTAINERS, GRASPABLE, SIZES_M, CameraSpec, Color, Kind, ObjectSpec, Scene
from sim.scene import KINDS as OBJECT_KINDS

SCENES = 500
_SHARES = {"cube": 5, "cylinder": 3, "ball": 3, "bowl": 3, "tray": 2, "plate": 2, "drawer": 1, "button": 1}


def front_camera() -> CameraModel:
    spec = CameraSpec()
    intrinsics = Intrinsics.from_fov_y(spec.width, spec.height, math.radians(spec.fov_y_deg))
    return CameraModel.look_at(intrinsics, np.array(spec.position), np.array(spec.target))


CAMERA = front_camera()


def make_scene(rng: np.random.Generator, *, novel: bool = False) -> Scene:
    """Two to eight objects that do not overlap; few colours in every third scene, so that groups and sorting occur."""
    weights = np.array([_SHARES[kind] for kind in OBJECT_KINDS], float)
    colors: tuple[Color, ...] = COLORS
    if not novel and rng.random() < 0.35:
        colors = tuple(COLORS[i] for i in rng.choice(10, 3, replace=False))
    while True:
        objects: list[ObjectSpec] = []
        wanted = int(rng.integers(2, 9))
        for _ in range(50):
            kind: Kind = OBJECT_KINDS[int(rng.choice(8, p=weights / weights.sum()))]
            color = colors[int(rng.integers(len(colors)))]
            if not novel and (color, kind) in holdout_pairs():
                continue
            radius, turn = rng.uniform(0.13, 0.27), rng.uniform(-1.0, 1.0)
            spot = (0.0388 + radius * math.cos(turn), radius * math.sin(turn))
            size = float(rng.uniform(SIZES_M[kind][0], SIZES_M[kind][2]))
            if all(math.dist(spot, o.position) > 0.5 * (size + o.size_m) + 0.02 for o in objects):
                objects.append(
                    ObjectSpec(kind=kind, color=color, position=spot, size_m=size, yaw_deg=math.degrees(turn))
                )
            if len(objects) == wanted:
                break
        scene = Scene(objects=tuple(objects))
        if contains_holdout(scene) == novel:
            return scene


@pytest.fixture(scope="module")
def material() -> list[tuple[Scene, Example]]:
    rng = np.random.default_rng(7)
    found = []
    for _ in range(SCENES):
        scene = make_scene(rng)
        found += [(scene, e) for e in examples(scene, CAMERA, rng, 8, split="train" if rng.random() < 0.5 else "seen")]
    return found


def foot(spec: ObjectSpec) -> tuple[float, float]:
    """Where plans must point, worked out apart from the code under test."""
    x, y = spec.position
    if spec.kind == "drawer":
        ahead = 0.4 * spec.size_m + 0.032 + 0.05 * spec.opening
        x, y = x - ahead * math.cos(math.radians(spec.yaw_deg)), y - ahead * math.sin(math.radians(spec.yaw_deg))
    u, v = CAMERA.project(np.array([x, y, spec.z]))
    return float(u) / 512, float(v) / 384


def matching(scene: Scene, description: str) -> list[ObjectSpec]:
    """Objects that fit plan words: "red cube", "cube", "red object", "object", "container"."""
    words = description.split()
    color = words[0] if words[0] in COLORS else None
    noun = words[-1]
    return [
        o
        for o in scene.objects
        if color in (None, o.color)
        and (noun in ("object", o.kind) or (noun == "container" and o.kind in CONTAINERS))
    ]  # fmt: skip


def by_point(scene: Scene, label: str, point: tuple[float, float]) -> ObjectSpec:
    near = [o for o in scene.objects if o.label == label and math.dist(foot(o), point) < 1e-4]
    assert len(near) == 1, f"{label} at {point} is no single object"
    return near[0]


def test_plans_point_at_objects_that_exist(material: list[tuple[Scene, Example]]) -> None:
    for scene, e in material:
        if e.plan.speech is not None:
            assert len(e.plan.calls) == 1
            continue
        for call in e.plan.calls:
            if isinstance(call, Home | Ask | Refuse):
                continue
            spec = by_point(scene, call.object, call.point)
            assert 0 <= call.point[0] <= 1 and 0 <= call.point[1] <= 1
            if isinstance(call, Open | Close):
                assert spec.kind == "drawer"
            elif isinstance(call, Press):
                assert spec.kind == "button"
            elif isinstance(call, Pick | Push):
                assert spec.kind in GRASPABLE
            elif isinstance(call, Place):
                assert (call.relation == "in") == (spec.kind in CONTAINERS and call.relation in ("in", "on")), e
                assert (call.top is not None) == (call.relation == "on")
                if call.relation == "on":
                    assert spec.kind in ("cube", "cylinder")
                    assert call.top is not None and call.top[1] < call.point[1]


def test_hands_hold_one_thing_at_a_time(material: list[tuple[Scene, Example]]) -> None:
    for scene, e in material:
        held = None
        moved: list[str] = []
        for call in e.plan.calls:
            if isinstance(call, Pick):
                assert held is None, e
                held = by_point(scene, call.object, call.point).name
                assert held not in moved, e
            elif isinstance(call, Place):
                assert held is not None, e
                target = by_point(scene, call.object, call.point).name
                assert target not in (held, *moved), f"a point at what has been moved: {e}"
                moved.append(held)
                held = None
            elif isinstance(call, Push):
                assert held is None, e
                moved.append(by_point(scene, call.object, call.point).name)
            else:
                assert held is None or isinstance(call, Home), e


def test_questions_and_refusals_are_justified(material: list[tuple[Scene, Example]]) -> None:
    for scene, e in material:
        speech = e.plan.speech
        if isinstance(speech, Ask):
            if speech.object not in ("object", "destination", "direction"):
                assert len(matching(scene, speech.object)) >= 2, e
        elif isinstance(speech, Refuse):
            if speech.reason == "absent" and speech.object:
                assert not matching(scene, speech.object), e
            if speech.reason == "impossible" and speech.object:
                assert len(matching(scene, speech.object)) == 1, e
        expected = {
            "absent": "absent", "ambiguous": "ask", "impossible": "impossible", "unsafe": "unsafe", "unclear": "unclear"
        }.get(e.kind)  # fmt: skip
        found = None if speech is None else speech.reason if isinstance(speech, Refuse) else "ask"
        assert found == expected, e


def plain_words(text: str) -> str | None:
    """ "The red cube" as plan words, when it is nothing but that."""
    words = re.sub(r"^(the|a|that|this) ", "", text.lower())
    found = re.fullmatch(rf"({'|'.join(COLORS)})? ?({'|'.join(OBJECT_KINDS)}|one|thing|object|item)", words)
    if found is None or words in ("one", "thing", "object", "item", "drawer shut", "orange"):
        return None
    return " ".join(w for w in (found[1], found[2] if found[2] in OBJECT_KINDS else "object") if w)


def test_the_cube_means_the_only_cube(material: list[tuple[Scene, Example]]) -> None:
    """Words that fit several objects end in a question, words that fit none in a refusal."""
    checked = 0
    for scene, e in material:
        for mention in e.mentions:
            words = plain_words(e.instruction[mention.char_start : mention.char_end])
            if words is None:
                continue
            checked += 1
            fitting = {o.name for o in matching(scene, words)}
            if len(mention.objects) == 1 and e.kind not in ("group", "sort"):
                assert fitting == set(mention.objects), (e, words)
            elif not mention.objects:
                assert not fitting, (e, words)
            elif e.kind == "ambiguous":
                assert set(mention.objects) <= fitting and len(fitting) > 1, (e, words)
    assert checked > 1000


@pytest.mark.parametrize(
    ("words", "axis", "sign"),
    [(r"leftmost|left|left-hand|\bon the left\b", 0, -1), (r"rightmost|right|right-hand|\bon the right\b", 0, 1),
     (r"frontmost|front", 1, 1), (r"rearmost|back|rear", 1, -1)],
)  # fmt: skip
def test_superlatives_hold(material: list[tuple[Scene, Example]], words: str, axis: int, sign: int) -> None:
    checked = 0
    for scene, e in material:
        for mention in e.mentions:
            text = e.instruction[mention.char_start : mention.char_end].lower()
            found = re.fullmatch(rf"the (?:{words}) (cube|ball|cylinder|bowl|tray|plate)", text)
            if found is None or len(mention.objects) != 1:
                continue
            checked += 1
            best = max(matching(scene, found[1]), key=lambda o: sign * foot(o)[axis])
            assert best.name == mention.objects[0], e
    assert checked > 3


def test_sizes_hold(material: list[tuple[Scene, Example]]) -> None:
    checked = 0
    for scene, e in material:
        for mention in e.mentions:
            text = e.instruction[mention.char_start : mention.char_end].lower()
            found = re.fullmatch(r"the (bigger|biggest|largest|smaller|smallest) (cube|ball|cylinder|bowl)", text)
            if found is None:
                continue
            checked += 1
            ranked = sorted(matching(scene, found[2]), key=lambda o: o.size_m, reverse=found[1][0] in "bl")
            assert ranked[0].name == mention.objects[0], e
            assert max(ranked[0].size_m, ranked[1].size_m) >= 1.2 * min(ranked[0].size_m, ranked[1].size_m)
    assert checked > 10


def test_clearing_takes_everything_from_left_to_right(material: list[tuple[Scene, Example]]) -> None:
    cleared = [(scene, e) for scene, e in material if e.kind == "clear"]
    assert len(cleared) > 20
    for scene, e in cleared:
        picks = [call for call in e.plan.calls if isinstance(call, Pick)]
        assert len(picks) == sum(o.kind in GRASPABLE for o in scene.objects)
        assert [p.point[0] for p in picks] == sorted(p.point[0] for p in picks)


def test_next_to_means_the_side_towards_the_middle(material: list[tuple[Scene, Example]]) -> None:
    checked = 0
    for _, e in material:
        if e.kind == "relation" and re.search(r"next to|beside|alongside", e.instruction.lower()):
            place = e.plan.calls[-1]
            assert isinstance(place, Place)
            if "that is next to" in e.instruction.lower():  # describes an object, says nothing of the destination
                continue
            checked += 1
            assert place.relation == ("left" if place.point[0] > 0.5 else "right"), e
    assert checked > 3


def test_mentions_mark_words(material: list[tuple[Scene, Example]]) -> None:
    for scene, e in material:
        names = {o.name for o in scene.objects}
        end = 0
        for mention in e.mentions:
            assert end <= mention.char_start < mention.char_end <= len(e.instruction), e
            text = e.instruction[mention.char_start : mention.char_end]
            assert text == text.strip() and set(mention.objects) <= names, e
            end = mention.char_end
        assert "  " not in e.instruction and e.instruction == e.instruction.strip() and e.instruction, e
        if e.plan.speech is None and e.kind not in ("home", "clear", "sort"):
            assert e.mentions, e


def test_kinds_are_balanced(material: list[tuple[Scene, Example]]) -> None:
    counts = Counter(e.kind for _, e in material)
    assert set(counts) == set(KINDS)
    assert 0.12 < counts["absent"] / len(material) < 0.22
    picks = sum(isinstance(e.plan.calls[-1], Pick) and len(e.plan.calls) == 1 for _, e in material)
    carries = sum(len(e.plan.calls) == 2 and isinstance(e.plan.calls[-1], Place) for _, e in material)
    assert picks > 0.25 * carries, "a verb of taking would come to imply a place"


def test_same_generator_same_examples() -> None:
    scene = make_scene(np.random.default_rng(3))
    first = examples(scene, CAMERA, np.random.default_rng(5), 30)
    assert first == examples(scene, CAMERA, np.random.default_rng(5), 30)
    assert first != examples(scene, CAMERA, np.random.default_rng(6), 30)
    rng = np.random.default_rng(5)
    assert first == [example(scene, CAMERA, rng) for _ in range(30)]


def _skeleton(e: Example) -> str:
    """An instruction with everything that refers to objects taken out."""
    text = e.instruction
    for mention in reversed(e.mentions):
        text = text[: mention.char_start] + "#" + text[mention.char_end :]
    return re.sub(r"[^\w#]+", " ", text.lower()).strip()


def test_paraphrases_share_no_sentence_with_training(material: list[tuple[Scene, Example]]) -> None:
    trained = {_skeleton(e) for _, e in material}
    rng = np.random.default_rng(11)
    for _ in range(250):
        scene = make_scene(rng)
        for e in examples(scene, CAMERA, rng, 4, split="paraphrase"):
            # a group's words may swallow the whole sentence but its verb; the patterns below are compared as such
            assert _skeleton(e) not in trained or _skeleton(e) in ("#", "", "# #"), e


def test_the_same_words_mean_the_same(rng: np.random.Generator) -> None:
    """In one scene, one sentence has one plan, whatever kind of instruction it was drawn as."""
    for _ in range(4):
        scene = make_scene(rng)
        meanings: dict[str, set[str]] = {}
        for e in examples(scene, CAMERA, rng, 1500, split="seen"):
            words = re.sub(r"[^\w ]", "", e.instruction.lower())
            meanings.setdefault(words, set()).add(e.plan.model_dump_json())
        assert not {words: plans for words, plans in meanings.items() if len(plans) > 1}


def test_training_has_no_held_out_word(material: list[tuple[Scene, Example]]) -> None:
    for _, e in material:
        assert not HELD_OUT_WORDS & set(re.findall(r"[a-z]+", e.instruction.lower())), e
    for kind, patterns in HELD_OUT.items():
        assert not {p.source for p in patterns} & {p.source for p in TRAIN[kind]}


def test_training_has_no_held_out_pair(material: list[tuple[Scene, Example]]) -> None:
    for _, e in material:
        assert not {getattr(call, "object", "") for call in e.plan.calls} & HELD_OUT_LABELS, e
    assert not set(trained_pairs()) & holdout_pairs()
    assert {color for color, _ in trained_pairs()} == set(COLORS), "every colour is learned"
    assert {kind for _, kind in trained_pairs()} == {*GRASPABLE, *CONTAINERS}, "every kind is learned"


def test_novel_examples_are_about_held_out_pairs() -> None:
    rng = np.random.default_rng(13)
    for _ in range(60):
        scene = make_scene(rng, novel=True)
        assert scene_fits(scene, "novel")
        e = example(scene, CAMERA, rng, split="novel")
        assert {getattr(call, "object", "") for call in e.plan.calls} & HELD_OUT_LABELS, e


def test_feasible_kinds_are_feasible(rng: np.random.Generator) -> None:
    lone = Scene(objects=(ObjectSpec(kind="cube", color="red", position=(0.2, 0.0)),))
    assert not {"put_in", "open", "press", "sort", "spatial"} & set(feasible_kinds(lone))
    for _ in range(40):
        scene = make_scene(rng)
        for kind in feasible_kinds(scene):
            if kind in ("reach", "pick", "put_in", "open", "close", "press", "home", "absent", "unsafe", "unclear"):
                if kind in ("reach", "pick", "put_in") and any(
                    n > 1 for n in Counter(o.label for o in scene.objects).values()
                ):
                    continue  # twins may have no unique words
                assert example(scene, CAMERA, rng, kind=kind).kind == kind


def generators() -> Iterator[tuple[Scene, str, str]]:
    plain = Scene(objects=(ObjectSpec(kind="cube", color="red", position=(0.2, 0.0)),))
    held = Scene(objects=(ObjectSpec(kind="cube", color="cyan", position=(0.2, 0.0)),))
    yield held, "train", "held-out pair"
    yield plain, "novel", "held-out pair"


@pytest.mark.parametrize(("scene", "split", "said"), list(generators()))
def test_a_scene_must_fit_the_split(scene: Scene, split: str, said: str, rng: np.random.Generator) -> None:
    with pytest.raises(SceneError, match=said):
        example(scene, CAMERA, rng, split=split)  # type: ignore[arg-type]


def test_wrong_names_list_the_choices(rng: np.random.Generator) -> None:
    scene = Scene(objects=(ObjectSpec(kind="cube", color="red", position=(0.2, 0.0)),))
    with pytest.raises(ValueError, match="choose one of reach"):
        example(scene, CAMERA, rng, kind="dance")
    with pytest.raises(ValueError, match="choose one of train"):
        example(scene, CAMERA, rng, split="test")  # type: ignore[arg-type]
    with pytest.raises(SceneError, match="feasible_kinds"):
        example(scene, CAMERA, rng, kind="open")


def test_an_empty_table_and_an_object_out_of_the_picture(rng: np.random.Generator) -> None:
    assert look(Scene(), CAMERA).items == ()
    kinds = {example(Scene(), CAMERA, rng).kind for _ in range(200)}
    assert kinds <= {"home", "absent", "impossible", "unsafe", "unclear"}
    far = Scene(objects=(ObjectSpec(kind="cube", color="red", position=(0.2, 1.5)),))
    assert look(far, CAMERA).items == ()


def test_what_is_stacked_on_is_not_taken() -> None:
    below = ObjectSpec(kind="cube", color="red", position=(0.2, 0.0), size_m=0.03)
    above = ObjectSpec(kind="cube", color="blue", position=(0.2, 0.0), z=0.03, size_m=0.03)
    bowl = ObjectSpec(kind="bowl", color="green", position=(0.2, 0.1))
    inside = ObjectSpec(kind="ball", color="white", position=(0.2, 0.1), z=0.004)
    view = look(Scene(objects=(below, above, bowl, inside)), CAMERA)
    assert [item.name for item in view.loose] == ["blue_cube"]
    assert {item.name for item in view.movable} == {"blue_cube", "white_ball"}


@pytest.mark.parametrize("opening", [0.0, 0.6])
def test_the_handle_is_where_the_world_has_it(opening: float) -> None:
    pytest.importorskip("pybullet")
    from sim.world import World

    turn = 0.5
    spot = (0.0388 + 0.25 * math.cos(turn), 0.25 * math.sin(turn))
    spec = ObjectSpec(
        kind="drawer", color="white", position=spot, yaw_deg=math.degrees(turn), size_m=0.09, opening=opening
    )
    world = World(Scene(objects=(spec,)))
    try:
        assert world.handle_position("white_drawer")[:2] == pytest.approx(handle_foot(spec), abs=0.002)
    finally:
        world.close()


def test_what_is_done_already_of_several_things_is_not_asked_for_again() -> None:
    """The same words after part of the work: the rest is left, and when there is no rest, going home."""
    rng = np.random.default_rng(21)
    done = partly = 0
    for _ in range(300):
        scene = arranged(random_scene(rng, kinds_required=("cube", "cube", "tray")), rng, share=0.7)
        view = look(scene, CAMERA)
        inside = {item.label for item in view.items if item.inside} - {item.label for item in view.loose}
        for kind in ("group", "sort", "clear"):
            try:
                found = example(scene, CAMERA, rng, split="train", kind=kind)
            except SceneError:
                continue
            picked = [call.object for call in found.plan.calls if isinstance(call, Pick)]
            assert not inside & set(picked), (found.instruction, picked)
            if not picked:
                assert found.plan.calls == (Home(),)
                done += 1
            partly += bool(picked) and bool(inside)
            asked = example_or_none(scene, rng, kind)
            assert asked is None or any(isinstance(call, Pick) for call in asked.plan.calls)
    assert done > 15
    assert partly > 50


def example_or_none(scene: Scene, rng: np.random.Generator, kind: str) -> Example | None:
    try:
        return example(scene, CAMERA, rng, split="seen", kind=kind)
    except SceneError:
        return None
