"""`embodied plan`: any picture file a user may have, the plan in words, in JSON and drawn into the picture."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embodied import planners
from embodied.commands.plan import PlanImage, run
from embodied.picture_file import LONGEST_SIDE, read_picture
from embodied.plan import Ask, Pick, Place, Plan, Refuse
from embodied.plan_picture import WIDTH, annotated
from hardware.camera_model import Frame
from hardware.errors import CheckpointError, EmbodiedError

MOVE = Plan(
    calls=(
        Pick(object="red cube", point=(0.4, 0.5)),
        Place(relation="in", object="blue bowl", point=(0.6, 0.55)),
    )
)


class Told:
    """Answers what the test says, and keeps what it was shown."""

    name = "told"
    scripted = False
    answer: Plan = MOVE
    seen: Frame | None = None
    words = ""

    def plan(self, instruction: str, frame: Frame) -> Plan:
        self.seen, self.words = frame, instruction
        return self.answer


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Told:
    planner = Told()
    monkeypatch.setitem(planners.PLANNERS, "local", lambda world: planner)
    monkeypatch.chdir(tmp_path)
    return planner


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Left half red, right half blue."""
    path = tmp_path / "photo.png"
    Image.fromarray(_halves(320, 240)).save(path)
    return path


def _halves(width: int, height: int) -> np.ndarray:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, : width // 2] = (200, 30, 30)
    rgb[:, width // 2 :] = (30, 30, 200)
    return rgb


def _last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(data, dict)
    return data


def test_it_prints_the_plan_and_draws_it_beside_the_user(
    told: Told, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(PlanImage(picture, "  put the red cube\n in the blue bowl ")) == 0
    out = capsys.readouterr().out
    assert "pick the red cube" in out
    assert "0.400, 0.500" in out
    assert "the camera of this picture is unknown" in out
    assert told.words == "put the red cube in the blue bowl"
    with Image.open(tmp_path / "photo-plan.png") as drawn:
        assert drawn.width == WIDTH
        assert drawn.height > 768


def test_json_is_one_object_on_the_last_line(told: Told, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(PlanImage(picture, "put the red cube in the blue bowl", save=Path("new/drawn.png"), json=True)) == 0
    data = _last_json(capsys)
    assert data["success"] is True
    assert data["camera"] == "unknown"
    assert data["picture"] == "new/drawn.png"
    assert Plan.model_validate({"calls": data["calls"]}) == MOVE
    assert Path("new/drawn.png").is_file()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Plan(calls=(Refuse(reason="absent", object="green ball"),)), "I do not see the green ball"),
        (Plan(calls=(Ask(object="red cube"),)), "more than one red cube: which one"),
        (Plan(calls=(Refuse(reason="unsafe", text="That would hurt [you]."),)), "That would hurt [you]."),
    ],
)
def test_a_refusal_and_a_question_are_sentences(
    answer: Plan, says: str, told: Told, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told.answer = answer
    assert run(PlanImage(picture, "do it")) == 1
    assert says in " ".join(capsys.readouterr().out.split())
    assert Path("photo-plan.png").is_file()


def test_a_known_scene_gives_targets_on_the_table_and_what_is_out_of_reach(
    told: Told, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(PlanImage(picture, "put the red cube in the blue bowl", scene="7", json=True)) == 0
    data = _last_json(capsys)
    assert data["camera"] == "scene"
    targets = data["targets_m"]
    assert isinstance(targets, list)
    assert 0.1 < targets[0][0] < 0.3
    told.answer = Plan(calls=(Pick(object="red cube", point=(0.5, 0.98)),))
    assert run(PlanImage(picture, "take the red cube", scene="7", json=True)) == 1
    data = _last_json(capsys)
    assert data["success"] is False
    assert "out of reach" in str(data["trouble"])


def test_the_scripted_planner_needs_the_scene(told: Told, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="needs a simulation"):
        run(PlanImage(picture, "go home", planner="scripted"))
    assert run(PlanImage(picture, "go home", planner="scripted", scene="7", json=True)) == 0
    assert _last_json(capsys)["calls"] == [{"skill": "home"}]


@pytest.mark.parametrize("words", ["", " \n "])
def test_an_empty_instruction(words: str, told: Told, picture: Path) -> None:
    with pytest.raises(EmbodiedError, match="the instruction is empty"):
        run(PlanImage(picture, words))


def test_the_picture_itself_is_never_overwritten(told: Told, picture: Path) -> None:
    before = picture.read_bytes()
    with pytest.raises(EmbodiedError, match="would be overwritten"):
        run(PlanImage(picture, "go", save=picture))
    assert picture.read_bytes() == before
    assert run(PlanImage(picture, "go", save=picture.parent)) == 0
    assert (picture.parent / "photo-plan.png").is_file()
    with pytest.raises(EmbodiedError, match="cannot write"):
        run(PlanImage(picture, "go", save=picture / "below.png"))


# Picture files -------------------------------------------------------------------------------------------------------


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


WAYS: dict[str, Callable[[Path], Path]] = {
    "png": lambda folder: _saved(folder / "a.png", Image.fromarray(_halves(256, 192))),
    "jpeg": lambda folder: _saved(folder / "a.jpg", Image.fromarray(_halves(256, 192)), quality=95),
    "webp": lambda folder: _saved(folder / "a.webp", Image.fromarray(_halves(256, 192)), lossless=True),
    "bmp": lambda folder: _saved(folder / "a.bmp", Image.fromarray(_halves(256, 192))),
    "tiff": lambda folder: _saved(folder / "a.tiff", Image.fromarray(_halves(256, 192))),
    "palette": lambda folder: _saved(folder / "a.gif", Image.fromarray(_halves(256, 192)).quantize(4)),
    "opaque alpha": lambda folder: _saved(folder / "b.png", Image.fromarray(_halves(256, 192)).convert("RGBA")),
    "cmyk": lambda folder: _saved(folder / "b.jpg", Image.fromarray(_halves(256, 192)).convert("CMYK"), quality=95),
    "turned": lambda folder: _saved(
        folder / "c.jpg", Image.fromarray(_halves(256, 192)).transpose(Image.Transpose.ROTATE_90), exif=_exif(6), quality=95
    ),
    "misnamed": lambda folder: _saved(folder / "photo.txt", Image.fromarray(_halves(256, 192)), format="PNG"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_usual_way_to_store_a_picture_shows_the_same(way: str, tmp_path: Path) -> None:
    frame = read_picture(WAYS[way](tmp_path))
    assert frame.rgb.shape == (192, 256, 3)
    assert frame.rgb.dtype == np.uint8
    assert (frame.model.intrinsics.width, frame.model.intrinsics.height) == (256, 192)
    left, right = frame.rgb[:, :100].mean((0, 1)), frame.rgb[:, -100:].mean((0, 1))
    assert left[0] > right[0] + 90
    assert right[2] > left[2] + 90


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    assert read_picture(_saved(tmp_path / "clear.png", clear)).rgb.min() == 255
    palette = Image.new("P", (64, 48), 0)
    assert read_picture(_saved(tmp_path / "palette.png", palette, transparency=0)).rgb.min() == 255


@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_picture_keeps_its_greys(bits: int, tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 2**bits - 1, 64), (48, 1)).astype(np.uint8 if bits == 8 else np.uint16)
    rgb = read_picture(_saved(tmp_path / "grey.png", Image.fromarray(ramp))).rgb
    assert rgb.shape == (48, 64, 3)
    assert np.abs(rgb[0, :, 0].astype(int) - np.linspace(0, 255, 64)).max() <= 1


@pytest.mark.parametrize("name", ["large.jpg", "large.png"])
def test_a_large_picture_is_scaled_down(name: str, tmp_path: Path) -> None:
    frame = read_picture(_saved(tmp_path / name, Image.new("L", (5200, 1300), 90)))
    assert frame.rgb.shape[1] == LONGEST_SIDE
    assert abs(frame.rgb.shape[0] - LONGEST_SIDE / 4) <= 1
    assert frame.model.intrinsics.width == LONGEST_SIDE


def _broken(kind: str, folder: Path) -> Path:
    path = folder / "broken.png"
    if kind == "folder":
        return folder
    if kind != "missing":
        whole = io.BytesIO()
        Image.fromarray(_halves(256, 192)).save(whole, format="JPEG" if kind == "half a JPEG" else "PNG")
        content = whole.getvalue()
        size = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
        gigantic = content[:12] + size + zlib.crc32(size).to_bytes(4, "big") + content[33:]
        path.write_bytes(
            {
                "empty": b"", "text": b"no picture", "half a PNG": content[: len(content) // 2],
                "half a JPEG": content[: len(content) // 2], "gigantic": gigantic,
                "tiny": _png(8, 8), "flipped bytes": content[:60] + bytes(255 - b for b in content[60:]),
            }[kind]
        )  # fmt: skip
    return path


def _png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_halves(width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "there is no picture .* make one with"),
        ("folder", "is a folder"),
        ("empty", "cannot read the picture"),
        ("text", "cannot read the picture .* not a PNG or JPEG"),
        ("half a PNG", "cannot read the picture"),
        ("half a JPEG", "cannot read the picture"),
        ("flipped bytes", "cannot read the picture"),
        ("gigantic", "is gigantic .* scale it down first"),
        ("tiny", "only 8 x 8 pixels"),
    ],
)
def test_what_is_no_picture_is_told_in_one_sentence(kind: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(EmbodiedError, match=says):
        read_picture(_broken(kind, tmp_path))


@pytest.mark.parametrize("size", [(40, 40), (400, 40), (40, 400), (1600, 1200)])
def test_any_shape_of_picture_is_annotated(size: tuple[int, int]) -> None:
    drawn = annotated(_halves(*size), "put the red cube in the blue bowl " * 20, MOVE)
    assert drawn.shape[1] == WIDTH
    assert drawn.dtype == np.uint8
    shown = annotated(_halves(*size), "x" * 400, Plan(calls=(Refuse(reason="unclear"),)))
    assert shown.shape[1] == WIDTH
