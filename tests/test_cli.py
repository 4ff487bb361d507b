"""The command line: quick help, one sentence for every bad input, exit statuses, and a whole episode."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embodied import planners
from embodied.cli import main

SCENE = {
    "objects": [
        {"kind": "cube", "color": "red", "position": [0.20, 0.05]},
        {"kind": "cube", "color": "green", "position": [0.36, 0.06]},
        {"kind": "ball", "color": "yellow", "position": [0.17, -0.03]},
        {"kind": "bowl", "color": "blue", "position": [0.22, -0.12]},
    ]
}


@pytest.fixture
def scene(tmp_path: Path) -> str:
    path = tmp_path / "scene.json"
    path.write_text(json.dumps(SCENE, indent=1))
    return str(path)


def run(scene: str, words: str, out: Path, *more: str) -> int:
    scripted = ("--planner", "scripted", "--policy", "scripted", "--no-video")
    return main(["run", words, "--scene", scene, "--out", str(out), *scripted, *more])


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The complaint on stderr, which must be a single line without a traceback."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("embodied: ")]
    assert len(lines) == 1
    assert "Traceback" not in lines[0]
    return lines[0]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from embodied.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'pybullet', 'transformers', 'cv2', 'av', 'matplotlib', 'gymnasium', 'numpy', 'serial', 'pyarrow'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in out
    assert all(command in out for command in ("run", "plan", "eval", "train", "scene", "collect"))


@pytest.mark.slow  # a timing: for a machine that does nothing else
def test_help_answers_at_once() -> None:
    code = (
        "import sys, time; began = time.process_time()\n"
        "from embodied.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print('SECONDS', time.process_time() - began)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(re.search(r"SECONDS (\S+)", out)[1]) < 0.5  # type: ignore[index]


@pytest.mark.parametrize(
    "command", [["run"], ["eval"], ["scene"], ["collect"], ["train", "policy"], ["train", "planner"]]
)
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_an_episode_from_a_hand_written_scene_succeeds_and_leaves_its_folder(
    scene: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scene, "put the red cube in the blue bowl", tmp_path / "runs", "--json") == 0
    out = capsys.readouterr()
    result = json.loads(out.out.splitlines()[-1])
    assert result["success"] is True
    assert result["scripted"] == ["planner", "policy"]
    assert [step["status"] for step in result["steps"]] == ["done", "done"]
    folder = Path(result["folder"])
    files = {path.name for path in folder.iterdir()}
    wanted = {"plan.json", "log.jsonl", "scene.json", "report.html", "result.json"}
    assert wanted | {"picture.png", "picture_plan.png", "picture_end.png"} <= files
    assert json.loads((folder / "result.json").read_text()) == result
    assert "place it in the blue bowl" in out.err
    assert "scripted" in out.err


def test_the_same_episode_twice_is_the_same(scene: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for _ in range(2):
        assert run(scene, "pick up the yellow ball", tmp_path / "runs", "--json") == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        results.append(
            (result["plan"], [step["control_steps"] for step in result["steps"]], result["seconds"]["motion"])
        )
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("pick up the green cube", "green cube is out of reach"),
        ("put the purple ball in the blue bowl", "I see no purple ball"),
        ("pick up the fork", "I do not understand|I see nothing"),
        ("把红色的方块放进蓝色的碗里", "I do not understand"),
        ("setze den roten Würfel in die blaue Schale", "I do not understand"),
        ("pick up the cube", "Which one do you mean"),
        ("pick up the blue bowl", "cannot be moved"),
    ],
)
def test_what_cannot_be_done_ends_with_a_sentence_and_without_motion(
    words: str, says: str, scene: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scene, words, tmp_path / "runs", "--json") == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["outcome"] in ("refused", "asked")
    assert re.search(says, result["sentence"])
    assert result["steps"] == []
    assert "motion" not in result["seconds"]


@pytest.mark.parametrize("words", ["", "   "])
def test_an_empty_instruction(words: str, scene: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(scene, words, tmp_path / "runs") == 2
    assert "the instruction is empty; say what to do" in one_sentence(capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", r"scene\.json.*"),
        (
            '{"objects": [\n {"kind": "cube", "color": "mauve", "position": [0.2, 0]}\n]}',
            r"line 2: field objects\.0\.color.*'red', 'orange'",
        ),
        (
            '{"objects": [\n\n {"kind": "cup", "color": "red", "position": [0.2, 0]}\n]}',
            r"line 3: field objects\.0\.kind.*'cube', 'cylinder'",
        ),
        ('{"objects": [\n {"kind": "cube", "color": "red"}\n]}', r"line 2: field objects\.0\.position.*required"),
        (
            '{"objects": [\n {"kind": "cube", "color": "red",\n "position": ["a", 0]}\n]}',
            r"line 3: field objects\.0\.position\.0",
        ),
        ('{"table": 3}', r"field table"),
    ],
)
def test_an_invalid_scene_names_field_and_line(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scene.json"
    path.write_text(text)
    assert run(str(path), "go home", tmp_path / "runs") == 2
    assert re.search(says, one_sentence(capsys))


def test_an_unreadable_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    for path in (tmp_path / "missing.json", tmp_path, binary):
        assert run(str(path), "go home", tmp_path / "runs") == 2
        assert f"cannot read the scene file {path}" in one_sentence(capsys)


def test_a_negative_scene_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scene", "--", "-3"]) == 2
    assert "positive" in one_sentence(capsys)


def test_a_missing_or_corrupted_policy(scene: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "go home", "--scene", scene, "--planner", "scripted", "--out", str(tmp_path / "runs")]
    assert main([*command, "--policy", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in one_sentence(capsys)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"format": 1, "kind": "point", "sha256": "0", "network": {}}')
    (broken / "model.safetensors").write_bytes(b"not weights")
    assert main([*command, "--policy", str(broken)]) == 2
    assert "damaged" in one_sentence(capsys)
    assert not (tmp_path / "runs").exists()


def test_a_missing_or_corrupted_planner(scene: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "go home", "--scene", scene, "--policy", "scripted", "--out", str(tmp_path / "runs")]
    assert main([*command, "--planner", str(tmp_path / "nowhere")]) == 2
    sentence = one_sentence(capsys)
    assert all(name in sentence for name in planners.PLANNERS)
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (broken / name).write_text("{")
    assert main([*command, "--planner", str(broken)]) == 2
    assert "broken" in one_sentence(capsys)


def test_a_read_only_output_folder(scene: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # chmod does not stop root; a path below a file and one in /proc stop everyone.
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file" / "runs", *([Path("/proc/runs")] if Path("/proc").exists() else [])]
    for out in places:
        assert run(scene, "go home", out) == 2
        assert f"cannot write to the output folder {out}" in one_sentence(capsys)
    video = tmp_path / "file" / "v.mp4"
    assert main(["run", "go home", "--scene", scene, "--planner", "scripted", "--policy", "scripted",
                 "--out", str(tmp_path / "runs"), "--video", str(video)]) == 2  # fmt: skip
    assert "cannot write the video" in one_sentence(capsys)


def test_with_json_an_error_is_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scene", str(tmp_path / "missing.json"), "--json"]) == 2
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert data["success"] is False
    assert "missing.json" in data["error"]


def test_a_scene_is_made_shown_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved, picture = tmp_path / "new" / "scene.json", tmp_path / "scene.png"
    assert main(["scene", "7", "--save", str(saved), "--show", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["scene", str(saved), "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["objects"] == json.loads(saved.read_text())["objects"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["eval", "agent", "--suite", "nonsense"], "single, skills, long"),
        (["eval", "planner", "--suite", "nonsense"], "seen, paraphrase, novel"),
        (["eval", "policy", "--suite", "nonsense"], "skills"),
        (["eval", "agent", "--episodes", "0"], "--episodes must be at least 1"),
        (["eval", "agent", "--seed", "-1"], "--seed must be zero or more"),
        (["eval", "agent", "--looks", "-1"], "looks must be zero or more, not -1"),
        (["run", "home", "--retries", "-2"], "retries must be zero or more, not -2"),
    ],
)
def test_senseless_evaluations(command: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--planner", "scripted", "--policy", "scripted"]) == 2
    assert says in one_sentence(capsys)


def test_agent_evaluation_prints_the_promised_json(capsys: pytest.CaptureFixture[str]) -> None:
    scripted = ["--planner", "scripted", "--policy", "scripted"]
    began = time.monotonic()
    assert main(["eval", "agent", "--suite", "single", "--episodes", "2", "--seed", "5", "--json", *scripted]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report) == {"suite", "episodes", "seed", "success", "by", "metrics"}
    assert set(report["success"]) == {"rate", "low", "high"}
    assert sum(kind["episodes"] for kind in report["by"].values()) == report["episodes"] == 2
    assert report["seed"] == 5
    assert time.monotonic() - began < 120


def test_planner_evaluation_prints_the_promised_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "planner", "--suite", "seen", "--episodes", "3", "--json", "--planner", "scripted"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"exact_plan", "valid", "median_cm", "p95_cm", "latency_ms"} <= set(report["metrics"])


def test_planning_for_a_picture_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    for path, says in ((tmp_path / "missing.png", "there is no picture"), (text, "cannot read the picture")):
        assert main(["plan", str(path), "pick up the red cube"]) == 2
        assert says in one_sentence(capsys)
