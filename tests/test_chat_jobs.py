"""Pointing, verifying and describing with models of other families, and the options of local planners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import tiny_qwen

from embodied.planner.chat_jobs import chat_job_grammar, job_text, read_located
from embodied.planner.grammar import PlanMask
from embodied.planner.jobs import Job
from embodied.planner.local import SHIPPED, LocalPlanner
from embodied.planner.plan_text import Coordinates
from embodied.planners import make_planner
from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import CheckpointError, PlanError

CAMERA = CameraModel.look_at(
    Intrinsics.from_fov_y(128, 96, float(np.radians(36.0))), np.array([0.60, 0.0, 0.50]), np.array([0.19, 0.0, 0.0])
)
FRAME = Frame(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8), CAMERA, 0.0)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LocalPlanner:
    return LocalPlanner(tiny_qwen(tmp_path_factory.mktemp("tiny") / request.param, request.param))


def test_a_random_model_of_another_family_answers_every_job_in_form(tiny: LocalPlanner) -> None:
    found = tiny.locate("the red cube", FRAME)
    everything = tiny.describe(FRAME)
    for item in (*found, *everything):
        assert item.label and item.box is not None
        assert all(0.0 <= v <= 1.0 for v in (*item.point, *item.box))
    assert 0.0 < tiny.verify("is the red cube in the bowl?", FRAME) < 1.0


def test_verify_follows_the_words_yes_and_no(tiny: LocalPlanner, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    size = tiny._model.get_input_embeddings().num_embeddings
    for word, expected in (("yes", 1.0), ("No", 0.0)):
        logits = torch.full((size,), -20.0)
        logits[tiny._first_tokens((word,))[0]] = 20.0
        monkeypatch.setattr(tiny._reader, "read", lambda ids, logits=logits: logits)
        # A tokenizer of 360 words may begin "yes" and "Yes" alike but not "yes" and "no".
        assert tiny.verify("is it so?", FRAME) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("coordinates", "point", "box"),
    [
        ("rel1000_xy", "500,250", "400,200,600,300"),
        ("rel1000_yx", "250,500", "200,400,300,600"),
        ("abs_px", "640,240", "512,192,768,288"),
        ("unit", "0.5,0.25", "0.4,0.2,0.6,0.3"),
        ("percent", "50.0,25.0", "40.0,20.0,60.0,30.0"),
    ],
)
def test_boxes_come_out_the_same_whatever_they_are_written_in(coordinates: Coordinates, point: str, box: str) -> None:
    text = f'[{{"label":"mug","point_2d":[{point}],"bbox_2d":[{box}]}}]'
    (mug,) = read_located(text, coordinates, (1280, 960))
    assert mug.point == pytest.approx((0.5, 0.25))
    assert mug.box == pytest.approx((0.4, 0.2, 0.6, 0.3))
    mask = PlanMask(LocalPlanner(SHIPPED)._tokenizer)
    follower = mask.follow(chat_job_grammar("point", coordinates, (1280, 960)))
    assert follower is not None


@pytest.mark.parametrize(
    "text", ["nothing", "[1", '[{"label":"mug","point_2d":["a",1]}]', '[{"label":"mug","bbox_2d":[1,2,3]}]']
)
def test_answers_out_of_form_are_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(PlanError, match="ask again"):
        read_located(text, "abs_px", (64, 48))


def test_every_job_has_its_question() -> None:
    jobs: tuple[Job, ...] = ("point", "verify", "describe")
    texts = {job_text(job, "is it so?") for job in jobs}
    assert len(texts) == 3
    assert all("no plan" in text for text in texts)


def test_options_stand_behind_a_local_models_name(tmp_path: Path) -> None:
    folder = tiny_qwen(tmp_path / "m", "qwen2_5_vl")
    planner = make_planner(f"{folder}?device=cpu&dtype=bfloat16&coordinates=unit")
    assert isinstance(planner, LocalPlanner)
    assert planner.coordinates == "unit"
    assert str(next(planner._model.parameters()).dtype) == "torch.bfloat16"
    assert isinstance(make_planner("local?dtype=float32"), LocalPlanner)
    for wrong in ("local?colour=red", "local?device", "local?device=tpu"):
        with pytest.raises(CheckpointError, match="device"):
            make_planner(wrong)
