"""Reports, drawings, videos and statistics: what people look at afterwards."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodied.drawing import png, with_caption, with_inset, with_plan
from embodied.episode import Episode, RunFolder
from embodied.executor import Event, StepRecord
from embodied.grounding import Grounder
from embodied.plan import Pick, Place, Plan, Refuse
from embodied.referee import Judged, Judgement
from embodied.report import report_html
from embodied.statistics import Rate, wilson
from embodied.video import VideoWriter, poster
from hardware.camera_model import CameraModel, Intrinsics
from hardware.errors import EmbodiedError

CAMERA = CameraModel.look_at(
    Intrinsics.from_fov_y(128, 96, float(np.radians(36.0))), np.array([0.60, 0.0, 0.50]), np.array([0.19, 0.0, 0.0])
)
PLAN = Plan(
    calls=(
        Pick(object="red cube", point=(0.6, 0.55)),
        Place(relation="left", object="blue <bowl>", point=(0.3, 0.5)),
    )
)


def episode(**more: object) -> Episode:
    grounded = Grounder(CAMERA).check(PLAN)
    record = StepRecord(0, PLAN.calls[0], grounded[0].goal, "done", 2, 57, "done")
    judgement = Judgement(False, "given plan", (Judged("red cube left of blue bowl", False),))
    values: dict[str, object] = {
        "instruction": 'put the <red> cube & "ball" left of the bowl', "outcome": "failed", "sentence": "it fell",
        "planner": "scripted", "policy": "point", "scripted": ("planner",), "scene": "seed 3", "seed": 1, "plan": PLAN,
        "records": (record,), "judgement": judgement, "seconds": {"plan": 0.01, "wall": 3.0},
    }  # fmt: skip
    return Episode(**{**values, **more})  # type: ignore[arg-type]


def picture(value: int = 128) -> np.ndarray:
    return np.full((96, 128, 3), value, np.uint8)


def test_the_report_is_one_file_that_says_who_planned_and_how_it_ended(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    with VideoWriter(video, 10.0) as writer:
        for k in range(5):
            writer.add(picture(40 * k))
    page = report_html(episode(), {"picture_plan.png": png(picture()), "picture_end.png": png(picture())}, video)
    assert "Failed" in page
    assert "It fell." in page
    assert "scripted planner" in page
    assert "pick the red cube" in page
    assert "at attempt 2" in page
    assert "Yardstick: given plan" in page
    # Nothing is loaded from anywhere, and words of the user or a model are never markup.
    assert page.count("data:image/png;base64,") == 2
    assert page.count("data:video/mp4;base64,") == 1
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "<red>" not in page
    assert "<bowl>" not in page
    assert "<script" not in page


def test_a_refusal_has_a_report_too() -> None:
    refusal = Plan(calls=(Refuse(reason="absent", object="green ball"),))
    page = report_html(episode(outcome="refused", plan=refusal, records=(), judgement=None), {})
    assert "Refused" in page
    assert "<video" not in page


def test_result_json_is_plain_and_complete() -> None:
    data = episode().to_json()
    assert data["success"] is False
    assert data["scripted"] == ["planner"]
    assert data["plan"][1]["relation"] == "left"
    assert data["steps"][0]["control_steps"] == 57
    assert data["judged_by"] == "given plan"


def test_points_are_drawn_where_the_plan_says() -> None:
    blank = picture()
    drawn = with_plan(blank, PLAN, Grounder(CAMERA).check(PLAN), CAMERA, scale=2)
    assert drawn.shape == (192, 256, 3)
    changed = np.argwhere((drawn != 128).any(-1))
    for u, v in ((0.6, 0.55), (0.3, 0.5)):
        assert np.abs(changed - [v * 192, u * 256]).max(1).min() <= 1
    assert (drawn[180:, :20] == 128).all()


def test_points_at_the_very_edge_can_be_drawn() -> None:
    plan = Plan(calls=(Pick(object="red cube", point=(0.0, 1.0)), Pick(object="red cube", point=(1.0, 0.0))))
    assert with_plan(picture(), plan).shape == (192, 256, 3)


def test_captions_make_even_sized_frames_and_long_text_is_cut() -> None:
    frame = with_caption(np.zeros((97, 129, 3), np.uint8), "word " * 100, "more " * 100, 0.5)
    assert frame.shape[0] % 2 == 0
    assert frame.shape[1] == 128
    assert with_inset(picture(), picture(255)).max() == 255


def test_a_video_holds_its_frames_in_order_in_a_format_browsers_play(tmp_path: Path) -> None:
    import av

    path = tmp_path / "v.mp4"
    with VideoWriter(path, 10.0) as writer:
        for value in (0, 60, 120, 180, 240):
            writer.add(picture(value))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == pytest.approx(10.0)
    levels = [float(poster(path, at).mean()) for at in (0.0, 0.5, 0.99)]
    assert levels == pytest.approx([0, 120, 240], abs=6)


def test_a_video_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbodiedError, match="cannot write the video"):
        VideoWriter(tmp_path / "file" / "v.mp4", 10.0).add(picture())


def test_run_folders_get_names_from_words_and_never_meet(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path, "Put it in the BOWL, ../../now!") for _ in range(3)]
    names = [folder.path.name for folder in folders]
    assert len(set(names)) == 3
    assert all(re.fullmatch(r"\d{8}-\d{6}-put-it-in-the-bowl-now(-\d)?", name) for name in names)
    assert RunFolder(tmp_path, "把红色的方块放进碗里").path.name.endswith("-episode")


def test_the_log_has_one_json_object_per_line(tmp_path: Path) -> None:
    import json

    with RunFolder(tmp_path, "x") as folder:
        folder.log(Event("plan", {"plan": PLAN, "seconds": 0.1}))
        folder.log(Event("retry", {"index": 0, "why": "slipped"}))
    lines = [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["plan", "retry"]
    assert lines[0]["plan"]["calls"][0]["skill"] == "pick"


def test_wilson_matches_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for k, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 300), st.integers(0, 300))
def test_an_interval_holds_its_rate_and_mirrors(successes: int, failures: int) -> None:
    n = successes + failures
    low, high = wilson(successes, n)
    assert 0.0 <= low <= (successes / n if n else 0.0) <= high <= 1.0 or n == 0
    mirrored = wilson(failures, n)
    assert (1.0 - mirrored[1], 1.0 - mirrored[0]) == pytest.approx((low, high))


def test_a_rate_cannot_exceed_its_episodes() -> None:
    with pytest.raises(ValueError, match="5 successes of 4"):
        Rate(5, 4)
    assert Rate(1, 2).to_json() == {"rate": 0.5, "low": 0.0945, "high": 0.9055, "episodes": 2}


def test_work_found_in_a_later_picture_is_a_row_of_the_report() -> None:
    later = StepRecord(
        2, Pick(object="green ball", point=(0.4, 0.4)), None, "failed", 1, 9, "timeout", "it rolled away"
    )
    page = report_html(episode(records=(*episode().records, later)), {})
    assert re.search(r">3</span></td><td>pick the green ball</td>", page)
    assert "it rolled away" in page
