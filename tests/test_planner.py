"""The planner: text of plans, vocabulary, grammar, the batched forward pass, training, resuming, loading."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from embodied.language import examples, scene_fits
from embodied.plan import Ask, Home, Pick, Place, Plan, Push, Refuse
from embodied.planner.batches import IGNORE, TEXT, Packer, batches, front_camera, label_patches
from embodied.planner.config import TrainPlannerConfig
from embodied.planner.grammar import PlanMask, plan_grammar
from embodied.planner.jobs import NO, YES, parse_located
from embodied.planner.local import LocalPlanner
from embodied.planner.model import Tables, new_model, patches_of, see, think
from embodied.planner.picture import COLS, HEIGHT, PATCH, VISUAL_TOKENS, WIDTH, shrink
from embodied.planner.plan_text import NUMBERS, parse_plan, plan_to_text, snap
from embodied.planner.processor import IMAGE_SETTINGS, prepare
from embodied.planner.tokenizer import load_tokenizer, number_ids, train_tokenizer
from hardware.camera_model import Frame
from hardware.errors import CheckpointError, PlanError
from sim.generate import random_scene
from sim.scene import Scene

PLAN = Plan(
    calls=(
        Pick(object="red cube", point=(0.431, 0.6149)),
        Place(relation="on", object="blue cube", point=(0.7, 0.48), top=(0.7, 0.44)),
        Push(object="green ball", point=(0.0, 1.0), direction="left"),
        Home(),
    )
)


def training_scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(11)
    scenes = []
    while len(scenes) < count:
        scene = random_scene(rng)
        if scene_fits(scene, "train"):
            scenes.append(scene)
    return scenes


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(5)
    corpus = []
    for scene in training_scenes(12):
        for example in examples(scene, front_camera(scene), rng, 12):
            corpus += [example.instruction, plan_to_text(example.plan)]
    return train_tokenizer(corpus, size=600)


@pytest.fixture(scope="module")
def model(tokenizer):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    return new_model(tokenizer, hidden=96, layers=4, vision_layers=3).eval()


def test_plan_text_round_trip_keeps_everything_but_the_snapping() -> None:
    again = parse_plan(plan_to_text(PLAN))
    assert [c.skill for c in again.calls] == [c.skill for c in PLAN.calls]
    assert isinstance(again.calls[1], Place) and again.calls[1].top == (0.7, 0.44)
    assert isinstance(again.calls[0], Pick) and again.calls[0].point == (0.43, 0.615)
    assert parse_plan(plan_to_text(again)) == again


def test_speech_acts_round_trip() -> None:
    for call in (Ask(object="cube"), Refuse(reason="absent", object="green ball"), Refuse(reason="unclear")):
        assert parse_plan(plan_to_text(Plan(calls=(call,)))).speech == call


@pytest.mark.parametrize("value, number", [(0.0, 0), (1.0, 1000), (0.4324, 430), (0.4326, 435), (7.0, 1000), (-1.0, 0)])
def test_snap(value: float, number: int) -> None:
    assert snap(value) == number


@pytest.mark.parametrize(
    "text, says",
    [
        ("Sure! I will do that.", "did not answer with a plan"),
        ('[{"skill":"pick",', "did not answer with a plan"),
        ('[{"skill":"pick"]', "not valid JSON"),
        ('[{"skill":"explode","object":"arm"}]', "does not follow the plan language"),
        ('[{"skill":"pick","object":"red cube","point_2d":[430,9000]}]', "does not follow the plan language"),
        ("[]", "does not follow the plan language"),
        (json.dumps([{"skill": "home"}] * 10_000), "does not follow the plan language"),
    ],
)
def test_answers_that_are_no_plans_are_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        parse_plan(text)


def test_a_fenced_answer_with_prose_is_read() -> None:
    text = 'Here it is:\n```json\n[{"skill": "home"}]\n```'
    assert parse_plan(text).calls == (Home(),)


def test_numbers_and_json_pieces_are_single_tokens(tokenizer) -> None:  # type: ignore[no-untyped-def]
    ids = number_ids(tokenizer)
    assert len(set(ids)) == len(NUMBERS) == 201
    encoded = tokenizer.encode('[{"skill":"pick","object":"red cube","point_2d":[430,615]}]', add_special_tokens=False)
    assert len(encoded) <= 11
    assert tokenizer.decode(encoded) == '[{"skill":"pick","object":"red cube","point_2d":[430,615]}]'
    odd = "Leg den röten Würfel 🙂 in die Schüssel"
    assert tokenizer.decode(tokenizer.encode(odd, add_special_tokens=False)) == odd.lower(), "capitals say nothing"


def test_every_true_plan_is_in_the_grammar(tokenizer) -> None:  # type: ignore[no-untyped-def]
    import llguidance

    mask = PlanMask(tokenizer)
    grammar = llguidance.grammar_from("lark", plan_grammar())
    rng = np.random.default_rng(3)
    checked = 0
    for scene in training_scenes(40):
        for example in examples(scene, front_camera(scene), rng, 5):
            matcher = llguidance.LLMatcher(mask._lexer, grammar)
            assert not matcher.is_error(), matcher.get_error()
            text = plan_to_text(example.plan)
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert matcher.validate_tokens(ids) == len(ids), (example.instruction, text)
            checked += 1
    assert checked == 200
    matcher = llguidance.LLMatcher(mask._lexer, grammar)
    bad = tokenizer.encode('[{"skill":"pick","object":"red bowl"', add_special_tokens=False)
    assert matcher.validate_tokens(bad) < len(bad)


def test_batched_forward_is_transformers_forward(model, tokenizer) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    inputs = prepare(tokenizer, picture, "put the red cube in the blue bowl")
    with torch.no_grad():
        wanted = model(**inputs).logits[0]
        tables = Tables(model)
        visual, deep = see(model.model.visual, tables, patches_of(torch.from_numpy(picture)[None]))
        language = model.model.language_model
        ids = inputs["input_ids"]
        embeddings = language.embed_tokens(ids).clone()
        embeddings[:, 1 : 1 + VISUAL_TOKENS] = visual
        text = torch.arange(ids.shape[1] - VISUAL_TOKENS - 2) + tables.first_text_position
        positions = torch.cat([tables.prefix_positions, text.expand(3, -1)], 1)[:, None]
        cos, sin = language.rotary_emb(embeddings, positions)
        n = ids.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
        hidden, _ = think(language, embeddings, deep, cos, sin, mask, watch=())
        ours = model.lm_head(hidden)[0]
    assert torch.allclose(ours, wanted, atol=2e-4), float((ours - wanted).abs().max())


def test_prepare_is_what_the_image_processor_does() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    settings = {k: v for k, v in IMAGE_SETTINGS.items() if k != "image_processor_type"}
    processor = Qwen2VLImageProcessorPil(**settings)
    picture = np.random.default_rng(1).integers(0, 255, (384, 512, 3), dtype=np.uint8)
    done = processor(images=[picture], return_tensors="pt")
    assert done["image_grid_thw"].tolist() == [[1, HEIGHT // PATCH, WIDTH // PATCH]]
    ours = patches_of(torch.from_numpy(shrink(picture, smooth=False).copy())[None])[0]
    assert torch.allclose(done["pixel_values"], ours, atol=0.02)


def test_patch_labels_mark_objects_where_they_stand() -> None:
    scene = Scene.model_validate(
        {"objects": [{"kind": "cube", "color": "red", "position": [0.2, 0.1]},
                     {"kind": "bowl", "color": "blue", "position": [0.2, -0.1]}]}
    )  # fmt: skip
    labels = label_patches(scene, front_camera(scene))
    for index in range(2):
        u, v = labels.feet[index]
        patch = int(v * HEIGHT // PATCH) * COLS + int(u * WIDTH // PATCH)
        rows = np.flatnonzero(labels.of_object[index])
        assert rows.size, "every object shows in some patch"
        near = np.abs(rows // COLS - patch // COLS) + np.abs(rows % COLS - patch % COLS)
        assert near.min() <= 1
        assert labels.share[rows].sum() == pytest.approx(1.0), "each object counts once, however large"
    assert labels.share.sum() == pytest.approx(2.0)
    assert labels.feet[0, 0] > labels.feet[1, 0], "y to the left of the arm is the right of the picture"


def test_a_small_thing_in_a_large_one_has_a_patch_of_its_own() -> None:
    objects = [{"kind": kind, "color": "red", "position": [0.2, -0.1], "z": z, "size_m": size}
               for kind, z, size in (("cube", 0.004, 0.025), ("bowl", 0.0, 0.1), ("cube", 0.029, 0.025))]  # fmt: skip
    crowd = [{"kind": "tray", "color": "blue", "position": [0.2, 0.1]}]
    scene = Scene.model_validate({"objects": objects + crowd})
    labels = label_patches(scene, front_camera(scene))
    assert labels.of_object.any(1).all(), "the cube below the other one is seen too: its lower half shows"
    assert labels.of_object.sum(0).max() == 1, "a patch is of one object"
    empty = label_patches(Scene(), front_camera(Scene()))
    assert empty.share.sum() == 0.0 and empty.of_object.shape == (0, VISUAL_TOKENS)


def test_packed_rows_supervise_the_answer_only(tokenizer) -> None:  # type: ignore[no-untyped-def]
    packer = Packer(tokenizer)
    scene = training_scenes(1)[0]
    row = packer.row(scene, np.random.default_rng(2))
    assert row is not None
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    for number in np.unique(row["segment"][row["segment"] > 0]):
        where = np.flatnonzero(row["segment"] == number)
        ids, target = row["ids"][where], row["target"][where]
        begin = int(np.flatnonzero(ids == start)[0])
        assert (target[:begin] == IGNORE).all()
        assert (target[begin:-1] == ids[begin + 1 :]).all() and target[-1] == IGNORE
        answer = tokenizer.decode(ids[begin + 1 : -1])
        if "verify: " in (asked := tokenizer.decode(ids[:begin])):
            assert answer in (YES, NO)
        elif asked.startswith(("point: ", "describe: ")):
            parse_located(answer)
        else:
            assert parse_plan(answer)
    assert row["ids"].shape == (TEXT,)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TrainPlannerConfig:
    folder = tmp_path_factory.mktemp("planner")
    from embodied.planner import rendering

    rendering.render_shards(folder / "data", first=0, last=1, seed=1, size=12)
    return TrainPlannerConfig(
        out=folder / "out", data=folder / "data", images=12, steps=3, batch=2, compile=False, hidden=96, layers=4,
        eye_steps=2, eye_pictures=3,
        log_every=1, warm_up=1, evaluate=0,
    )  # fmt: skip


def test_pictures_without_words_follow_those_with_words(tiny: TrainPlannerConfig, tokenizer) -> None:  # type: ignore[no-untyped-def]
    batch = next(batches(tiny.data, tokenizer, size=2, more=3, seed=0))
    assert len(batch["image"]) == len(batch["kind"]) == len(batch["share"]) == 5
    assert len(batch["ids"]) == len(batch["watch_where"]) == 2
    alone = next(batches(tiny.data, None, size=0, more=4, seed=0))
    assert len(alone["image"]) == 4 and "ids" not in alone


def test_training_falls_resumes_exactly_and_loads_as_transformers_loads(
    tiny: TrainPlannerConfig, tmp_path: Path
) -> None:
    from embodied.planner.train import train

    whole = train(replace(tiny, steps=8, out=tmp_path / "whole"))
    half = replace(tiny, steps=8, out=tmp_path / "half")
    # Cut after three of eight steps of the same schedule, then go on.
    import embodied.planner.train as module

    class Cut(Exception):
        pass

    original = module.State.update

    def stop_at_three(self: module.State) -> None:
        original(self)
        if self.step == 2:
            self.step += 1
            self.save(load_tokenizer(half.out / "tokenizer"))
            raise Cut

    module.State.update = stop_at_three  # type: ignore[method-assign]
    try:
        with pytest.raises(Cut):
            train(half)
    finally:
        module.State.update = original  # type: ignore[method-assign]
    resumed = train(replace(half, resume=True))
    a, b = ((folder / "model.safetensors").read_bytes() for folder in (whole, resumed))
    assert a == b, "a training that was cut and resumed gives the same weights to the bit"
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 8 and all(np.isfinite(line["kind"]) for line in lines)
    assert [line["step"] for line in lines if "text" not in line] == [1, 2], "the eye learns first, without words"
    assert lines[-1]["text"] < lines[2]["text"]

    from transformers import AutoModelForImageTextToText

    card = (whole / "README.md").read_text(encoding="utf-8")
    assert "Not measured" in card and "seed 0" in card
    loaded = AutoModelForImageTextToText.from_pretrained(whole, local_files_only=True)
    assert type(loaded).__name__ == "Qwen3VLForConditionalGeneration"

    planner = LocalPlanner(whole)
    scene = training_scenes(1)[0]
    frame = Frame(np.zeros((384, 512, 3), np.uint8), front_camera(scene), 0.0)
    for words in ("put the red cube in the blue bowl", "x", "🙂"):
        assert planner.plan(words, frame).calls, "constrained decoding makes even an untrained model answer with a plan"
    with pytest.raises(PlanError, match="empty"):
        planner.plan("  ", frame)


def test_missing_or_damaged_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="config.json, model.safetensors, tokenizer.json missing"):
        LocalPlanner(tmp_path)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("{ not a model")
    with pytest.raises(CheckpointError, match="cannot be read"):
        LocalPlanner(tmp_path)
