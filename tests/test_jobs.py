"""Questions about pictures: their truths, their answers as text, and how training packs them."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from embodied.language.questions import describe_questions, locate_questions, verify_questions
from embodied.planner.batches import JOB_SHARE, Packer, box_of, conversation, front_camera, label_patches
from embodied.planner.jobs import Located, job_grammar, located_to_text, parse_located, prompt_for
from embodied.planner.muon import Muon, orthogonal
from embodied.planner.tokenizer import train_tokenizer
from hardware.errors import PlanError
from sim.generate import MOVED_RADIUS_M, PAN_AXIS, arranged, displaced, random_scene
from sim.scene import CONTAINERS, GRASPABLE, Scene

TABLE = Scene.model_validate(
    {
        "objects": [
            {"kind": "cube", "color": "red", "position": [0.22, -0.12], "z": 0.004},
            {"kind": "bowl", "color": "blue", "position": [0.22, -0.12]},
            {"kind": "cube", "color": "green", "position": [0.20, 0.05]},
            {"kind": "ball", "color": "yellow", "position": [0.26, 0.12]},
            {"kind": "plate", "color": "white", "position": [0.18, 0.16]},
        ]
    }
)


def test_truths_about_what_lies_where() -> None:
    asked = verify_questions(TABLE, front_camera(TABLE), np.random.default_rng(0), 400)
    assert len(asked) == 400
    share = np.mean([q.answer for q in asked])
    assert 0.35 < share < 0.65
    inside = [q for q in asked if q.topic == "in" and "red" in q.text.lower() and "blue" in q.text.lower()]
    assert len(inside) > 5
    for question in inside:
        green_or_white = re.search(r"green|white|plate", question.text.lower())
        assert green_or_white or question.answer is True, question.text
    empty = {q.answer for q in asked if q.topic == "empty" and "plate" in q.text.lower() and "white" in q.text.lower()}
    assert empty == {True}


def test_locating_names_what_is_there_from_left_to_right() -> None:
    camera = front_camera(TABLE)
    asked = locate_questions(TABLE, camera, np.random.default_rng(1), 200)
    everything = [q for q in asked if re.search(r"\b(objects|things)\b", q.text.lower()) and len(q.names) == 5]
    assert everything
    across = [camera.project(np.array([*TABLE.find(n).position, 0.0]))[0] for n in everything[0].names]
    assert across == sorted(across)
    nothing = [q for q in asked if not q.names]
    assert len(nothing) > 10
    listed = describe_questions(TABLE, camera, np.random.default_rng(2), 3)
    assert all(q.names == everything[0].names for q in listed)


def test_paraphrases_share_no_pattern_with_training() -> None:
    camera, rng = front_camera(TABLE), np.random.default_rng(3)
    trained = {q.text.lower() for q in verify_questions(TABLE, camera, rng, 300)}
    held_out = {q.text.lower() for q in verify_questions(TABLE, camera, rng, 100, split="paraphrase")}
    assert not trained & held_out


def test_answers_survive_text_and_back() -> None:
    found = (Located("red cube", (0.25, 0.5), (0.2, 0.4, 0.3, 0.52)), Located("blue bowl", (0.7, 0.6)))
    assert parse_located(located_to_text(found)) == (
        Located("red cube", (0.25, 0.5), (0.2, 0.4, 0.3, 0.52)), Located("blue bowl", (0.7, 0.6)),
    )  # fmt: skip
    assert parse_located("Here you are: []") == ()
    boxed = parse_located('[{"label": "cup", "bbox_2d": [100, 200, 300, 400]}]')
    assert boxed[0].point == (0.2, 0.4)


@pytest.mark.parametrize(
    "text", ["", "nothing", "[1]", '[{"label":"cube"}]', '[{"label":3,"point_2d":[1,2]}]', '{"a":1}', "[{]"]
)
def test_what_is_no_list_of_objects_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        parse_located(text)


def test_boxes_hold_their_objects() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        scene = random_scene(rng, vary_camera=True)
        camera = front_camera(scene)
        for spec in scene.objects:
            left, top, right, bottom = box_of(spec, camera)
            u, v = camera.project(np.array([*spec.position, spec.z])) / (
                camera.intrinsics.width,
                camera.intrinsics.height,
            )
            assert left - 1e-6 <= min(max(u, 0), 1) <= right + 1e-6
            assert top - 1e-6 <= min(max(v, 0), 1) <= bottom + 1e-6
            assert right - left < 0.6


def test_arranged_scenes_hold_things_in_containers_without_overlaps() -> None:
    rng = np.random.default_rng(7)
    inside = 0
    for _ in range(60):
        scene = arranged(random_scene(rng, kinds_required=("bowl", "cube", "ball")), rng)
        raised = [o for o in scene.objects if o.z > 0]
        for spec in raised:
            below = [
                o for o in scene.objects
                if o is not spec and np.hypot(*np.subtract(o.position, spec.position)) < 0.5 * o.size_m and o.z < spec.z
            ]  # fmt: skip
            assert below, f"{spec.name} floats"
            inside += any(o.kind in CONTAINERS for o in below)
        for a in raised:
            for b in raised:
                if a is not b and a.z == b.z:
                    assert np.hypot(*np.subtract(a.position, b.position)) > 0.5 * (a.size_m + b.size_m)
    assert inside > 30


def test_what_must_stay_stays_when_a_scene_is_arranged() -> None:
    rng = np.random.default_rng(8)
    filled = 0
    for _ in range(40):
        plain = random_scene(rng, kinds_required=("bowl", "cube", "cube", "ball"))
        kept = {next(o.name for o in plain.objects if o.kind == kind) for kind in ("bowl", "cube")}
        scene = arranged(plain, rng, share=1.0, keep=frozenset(kept))
        for name in kept:
            now = scene.find(name)
            assert now == plain.find(name)
            over = [o for o in scene.objects if o.z > now.z and math.dist(o.position, now.position) < 0.5 * now.size_m]
            filled += now.kind == "bowl" and bool(over)
            assert now.kind == "bowl" or not over
    assert filled > 10


def test_displaced_things_stand_free_anywhere_in_reach() -> None:
    rng = np.random.default_rng(9)
    aside = moved = 0
    for _ in range(60):
        plain = random_scene(rng, kinds_required=("bowl", "cube", "ball", "cylinder"))
        scene = displaced(plain, rng)
        for old, new in zip(plain.objects, scene.objects, strict=True):
            assert new.model_copy(update={"position": old.position}) == old
            moved += new != old
            x, y = np.subtract(new.position, PAN_AXIS)
            if new != old:
                assert new.kind in GRASPABLE
                assert MOVED_RADIUS_M[0] - 1e-3 <= math.hypot(x, y) <= MOVED_RADIUS_M[1] + 1e-3
                aside += abs(math.atan2(y, x)) > math.radians(60)
                assert all(
                    math.dist(new.position, o.position) > 0.5 * (new.size_m + o.size_m)
                    for o in scene.objects
                    if o is not new
                )
    assert moved > 60
    assert aside > 15


def test_conversations_mix_jobs_and_pack_their_answers() -> None:
    camera = front_camera(TABLE)
    feet = label_patches(TABLE, camera).feet
    rng = np.random.default_rng(11)
    said = conversation(TABLE, camera, feet, rng, 300)
    for job, share in JOB_SHARE.items():
        asked = [s for s in said if s.words.startswith(f"{job}: ")]
        assert 0.5 * share < len(asked) / 300 < 1.6 * share
        for one in asked:
            json.loads(one.answer)
            for mention in one.mentions:
                assert one.words[mention.char_start : mention.char_end].strip()
    tokenizer = train_tokenizer([s.words for s in said], size=500)
    row = Packer(tokenizer).row(TABLE, rng)
    assert row is not None
    assert (row["watch_layer"] > 0).sum() > 20
    seen = tokenizer.decode(row["ids"][row["segment"] > 0])
    assert '{"answer":' in seen or '{"label":' in seen


def test_the_grammar_of_answers_admits_them() -> None:
    import llguidance.hf

    camera = front_camera(TABLE)
    feet = label_patches(TABLE, camera).feet
    said = conversation(TABLE, camera, feet, np.random.default_rng(13), 150)
    tokenizer = train_tokenizer([s.words for s in said], size=500)

    lexer = llguidance.hf.from_tokenizer(tokenizer)
    for job in JOB_SHARE:
        for one in [s for s in said if s.words.startswith(f"{job}: ")]:
            matcher = llguidance.LLMatcher(lexer, llguidance.grammar_from("lark", job_grammar(job)))
            ids = tokenizer(one.answer, add_special_tokens=False)["input_ids"]
            assert matcher.consume_tokens(ids) and matcher.is_accepting(), one.answer


def test_prompts_name_their_job() -> None:
    assert prompt_for("point", "  the  red cube ") == "point: the red cube"
    assert prompt_for("describe", "") == "describe: list the objects"


def test_muon_makes_updates_orthogonal_and_finds_a_minimum() -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 20, 50, generator=generator)))
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    weight = torch.nn.Parameter(torch.randn(8, 16, generator=generator))
    wanted = torch.randn(8, 16, generator=generator)
    optimizer = Muon([weight], lr=0.05, weight_decay=0.0)
    first = float((weight.detach() - wanted).norm())
    for _ in range(300):
        optimizer.zero_grad()
        ((weight - wanted) ** 2).sum().backward()
        optimizer.step()
    assert float((weight.detach() - wanted).norm()) < 0.3 * first
