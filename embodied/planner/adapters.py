"""One adapter per family of vision-language models: picture, chat prompt, and how it writes a point.

| ``model_type`` of the checkpoint | picture | a point is |
|---|---|---|
| ``qwen3_vl`` with our vocabulary and patching | 256 x 192 | 0 … 1000 in steps of 5, one token |
| ``qwen2_5_vl`` | multiples of 28 px | pixels of that resized picture |
| ``qwen2_vl``, ``qwen3_vl``, ``qwen3_5``, ``…_moe`` | multiples of 28 or 32 px | 0 … 1000 of the picture |
| any other image-text-to-text | its own processor | said by the user, never guessed |

The family is read from the checkpoint's own configuration. Qwen pictures go through the PIL image processors, so that
torchvision is not needed; their own ``Processor`` classes would insist on it for videos.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from embodied.plan import Plan
from embodied.planner.grammar import LABELS, STEPS_OF_FIVE, NumberRule, plan_grammar
from embodied.planner.picture import HEIGHT, WIDTH
from embodied.planner.plan_text import FRAGMENTS, NUMBERS, SCALE, Coordinates, parse_plan
from embodied.planner.processor import prefix_text, prepare_picture
from embodied.planner.tokenizer import IMAGE, START
from hardware.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

Picture = NDArray[np.uint8]
COORDINATES: tuple[Coordinates, ...] = get_args(Coordinates)
#: What the Qwen families point in: Qwen2.5-VL alone counts pixels (cookbooks of QwenLM/Qwen3-VL).
QWEN: dict[str, Coordinates] = {
    "qwen2_vl": "rel1000_xy",
    "qwen2_5_vl": "abs_px",
    "qwen3_vl": "rel1000_xy",
    "qwen3_vl_moe": "rel1000_xy",
    "qwen3_5": "rel1000_xy",
    "qwen3_5_moe": "rel1000_xy",
}
#: Stands for the instruction while a chat template is taken apart.
_HERE = "INSTRUCTION-GOES-HERE"


@dataclass(frozen=True)
class Prefix:
    """What a model reads once per picture: token ids, what goes with them, and the size (w, h) of what it sees."""

    ids: list[int]
    inputs: dict[str, Tensor]
    size: tuple[int, int]


class Adapter(Protocol):
    """Between plans and one family of models."""

    coordinates: Coordinates
    most_tokens: int  # that an answer may have

    def look(self, rgb: Picture) -> Prefix:
        """The beginning of every prompt about the picture ``rgb`` (H, W, 3)."""
        ...

    def words(self, instruction: str, holding: str | None, visible: Sequence[str] | None) -> list[int]:
        """The token ids after that, up to where the answer begins."""
        ...

    def grammar(self, size: tuple[int, int], holding: str | None, visible: Sequence[str] | None) -> str:
        """What may be answered, for a picture seen at ``size`` (w, h)."""
        ...


class ShippedAdapter:
    """The small model this project trains: the prompt is the picture and the words, nothing else."""

    coordinates: Coordinates = "rel1000_xy"
    most_tokens = 220

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._prefix = encode(tokenizer, prefix_text())
        self._image = int(tokenizer.convert_tokens_to_ids(IMAGE))
        self._start = int(tokenizer.convert_tokens_to_ids(START))

    @staticmethod
    def fits(config: dict[str, Any], tokenizer: Any) -> bool:
        """Whether a checkpoint is of this kind: Qwen3-VL, unmerged patches of 16 px, numbers as tokens."""
        vision = config.get("vision_config", {})
        return (
            config.get("model_type") == "qwen3_vl"
            and (vision.get("patch_size"), vision.get("spatial_merge_size"), vision.get("temporal_patch_size"))
            == (16, 1, 1)
            and {*FRAGMENTS, *NUMBERS} <= tokenizer.get_vocab().keys()
        )

    def look(self, rgb: Picture) -> Prefix:
        inputs = {**prepare_picture(rgb), "mm_token_type_ids": _kinds(self._prefix, self._image)}
        return Prefix(self._prefix, inputs, (WIDTH, HEIGHT))

    def words(self, instruction: str, holding: str | None, visible: Sequence[str] | None) -> list[int]:
        # Nothing but the instruction: the model knows no other words. Hand and view are the grammar's business.
        return [*encode(self._tokenizer, instruction, untrusted=True), self._start]

    def grammar(self, size: tuple[int, int], holding: str | None, visible: Sequence[str] | None) -> str:
        known = None if visible is None else [label for label in visible if label in _KNOWN]
        return plan_grammar(visible=known, holding=holding, numbers=STEPS_OF_FIVE)


_KNOWN = frozenset(LABELS)


class _ChatAdapter:
    """What all models with a chat template have in common: they are told the plan language, and may use any names."""

    most_tokens = 640

    def __init__(self, tokenizer: Any, coordinates: Coordinates) -> None:
        self._tokenizer = tokenizer
        self.coordinates: Coordinates = coordinates
        self._after = ""

    def grammar(self, size: tuple[int, int], holding: str | None, visible: Sequence[str] | None) -> str:
        return plan_grammar(labels=None, visible=visible, holding=holding, numbers=number_rule(self.coordinates, size))

    def _before(self, templated: Any, size: tuple[int, int], folder: Path) -> str:
        """The chat up to where the user's words begin; remembers what comes after them."""
        from jinja2 import TemplateError

        if not templated.chat_template:
            raise CheckpointError(f"{folder} holds no chat template (chat_template.jinja); use an instruct model")
        told = {"type": "text", "text": plan_instructions(self.coordinates, size)}
        asked = [{"type": "image"}, {"type": "text", "text": _HERE}]
        # Thinking aloud has no place in a grammar of plans; a template that knows the switch gets it.
        switch = {"enable_thinking": False} if "enable_thinking" in str(templated.chat_template) else {}
        try:
            chat = [{"role": "system", "content": [told]}, {"role": "user", "content": asked}]
            rendered = templated.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **switch)
        except TemplateError:  # some families know no system turn
            chat = [{"role": "user", "content": [asked[0], told, asked[1]]}]
            rendered = templated.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **switch)
        before, here, self._after = rendered.partition(_HERE)
        if not here:
            raise CheckpointError(f"the chat template in {folder} drops the user's words; use an instruct model")
        return str(before)

    def words(self, instruction: str, holding: str | None, visible: Sequence[str] | None) -> list[int]:
        said = encode(self._tokenizer, situation(instruction, holding, visible), untrusted=True)
        return said + encode(self._tokenizer, self._after)


class QwenAdapter(_ChatAdapter):
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5 through the PIL image processor and the tokenizer's chat template."""

    def __init__(self, folder: Path, config: dict[str, Any], tokenizer: Any, coordinates: Coordinates) -> None:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        super().__init__(tokenizer, coordinates)
        self._folder = folder
        try:
            self._images = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder} holds no readable preprocessor_config.json, which says how pictures are prepared; copy it from "
                "where the weights came from"
            ) from error
        self._image = int(config["image_token_id"])

    def look(self, rgb: Picture) -> Prefix:
        done = self._images(images=[rgb], return_tensors="pt")
        grid = done["image_grid_thw"]
        patch, merge = int(self._images.patch_size), int(self._images.merge_size)
        size = int(grid[0, 2]) * patch, int(grid[0, 1]) * patch
        ids = encode(self._tokenizer, self._before(self._tokenizer, size, self._folder))
        if ids.count(self._image) != 1:
            raise CheckpointError(f"the chat template in {self._folder} has no place for a picture; use a -VL model")
        at = ids.index(self._image)
        ids[at : at + 1] = [self._image] * (int(grid.prod()) // merge**2)
        inputs = {"pixel_values": done["pixel_values"], "image_grid_thw": grid}
        return Prefix(ids, {**inputs, "mm_token_type_ids": _kinds(ids, self._image)}, size)


class ProcessorAdapter(_ChatAdapter):
    """Any other family, through whatever processor its folder names."""

    def __init__(self, folder: Path, tokenizer: Any, coordinates: Coordinates) -> None:
        from transformers import AutoProcessor

        super().__init__(tokenizer, coordinates)
        self._folder = folder
        try:
            self._processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except ImportError as error:
            raise CheckpointError(
                f"the processor of {folder} needs a package that is not installed ({str(error).strip()[:120]}); "
                "most often it is torchvision: pip install torchvision"
            ) from error
        if not hasattr(self._processor, "image_processor"):
            raise CheckpointError(
                f"{folder} holds no processor for pictures (preprocessor_config.json or processor_config.json); "
                "copy it from where the weights came from"
            )

    def look(self, rgb: Picture) -> Prefix:
        size = rgb.shape[1], rgb.shape[0]
        before = self._before(self._processor, size, self._folder)
        done = self._processor(text=[before], images=[rgb], return_tensors="pt", add_special_tokens=False)
        ids = done["input_ids"][0].tolist()
        return Prefix(ids, {k: v for k, v in done.items() if k not in ("input_ids", "attention_mask")}, size)


def choose_adapter(folder: Path, config: dict[str, Any], tokenizer: Any, coordinates: Coordinates | None) -> Adapter:
    """The adapter for a checkpoint, from its ``config.json``. Raises ``CheckpointError`` when the user must say more."""
    if coordinates is not None and coordinates not in COORDINATES:
        raise CheckpointError(
            f"there are no coordinates called {coordinates!r}; choose one of {', '.join(COORDINATES)}"
        )
    if ShippedAdapter.fits(config, tokenizer):
        if coordinates not in (None, ShippedAdapter.coordinates):
            raise CheckpointError(
                f"the model in {folder} points in {ShippedAdapter.coordinates}; leave coordinates out"
            )
        return ShippedAdapter(tokenizer)
    family = str(config["model_type"])
    if family in QWEN:
        return QwenAdapter(folder, config, tokenizer, coordinates or QWEN[family])
    if coordinates is None:
        raise CheckpointError(
            f"{folder} is a {family} model, and how those write a point is not known here; say it with "
            f"coordinates=, one of {', '.join(COORDINATES)} (its model card tells)"
        )
    return ProcessorAdapter(folder, tokenizer, coordinates)


def encode(tokenizer: Any, text: str, *, untrusted: bool = False) -> list[int]:
    """Token ids; in ``untrusted`` text the likes of ``<|im_end|>`` are letters and not control tokens."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=untrusted)["input_ids"])


def _kinds(ids: Sequence[int], image: int) -> Tensor:
    """For each token whether it is of text (0) or of a picture (1): (1, L), from which the Qwen models number places."""
    import torch

    return (torch.tensor([ids]) == image).int()


def number_rule(coordinates: Coordinates, size: tuple[int, int]) -> NumberRule:
    """How a model that points in ``coordinates`` may write a point of a picture it sees at ``size`` (w, h)."""
    match coordinates:
        case "abs_px":
            return NumberRule.integers(size[0] - 1, size[1] - 1)
        case "unit":
            decimal = r"/(0(\.[0-9]{1,3})?|1(\.0)?)/"
            return NumberRule(decimal, decimal)
        case "percent":
            decimal = r"/(100|[1-9]?[0-9])(\.[0-9])?/"
            return NumberRule(decimal, decimal)
        case _:
            return NumberRule.integers(SCALE, SCALE)


def scale_of(coordinates: Coordinates, size: tuple[int, int]) -> tuple[int, int]:
    """What a model that points in ``coordinates`` writes at the right and the lower edge of a picture of ``size`` (w, h)."""
    return {"abs_px": size, "unit": (1, 1), "percent": (100, 100)}.get(coordinates, (SCALE, SCALE))


def read_plan(text: str, coordinates: Coordinates, size: tuple[int, int]) -> Plan:
    """The plan in a model's answer, its points brought from ``coordinates`` to 0..1. Raises ``PlanError``."""
    if coordinates == "rel1000_xy":
        return parse_plan(text)
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        return parse_plan(text)  # which says what is wrong with it
    scale = scale_of(coordinates, size)
    for item in data if isinstance(data, list) else []:
        for key in ("point_2d", "top_2d"):
            if isinstance(item, dict) and key in item:
                x, y = reversed(item[key]) if coordinates == "rel1000_yx" else item[key]
                item[key] = [min(x / scale[0], 1.0), min(y / scale[1], 1.0)]
    return parse_plan(json.dumps(data), scale=1.0)


def situation(instruction: str, holding: str | None, visible: Sequence[str] | None) -> str:
    """The user's message: what is known of hand and table, then the words."""
    known = []
    if visible is not None:
        known.append(f"Objects on the table: {', '.join(visible) or 'none'}.")
    known.append(f"The gripper holds the {holding}." if holding else "The gripper is empty.")
    return " ".join(known) + f"\nInstruction: {instruction}"


def plan_instructions(coordinates: Coordinates, size: tuple[int, int]) -> str:
    """The plan language in words, for models that were not trained on it."""
    points = {
        "rel1000_xy": "[x,y], integers from 0 to 1000: thousandths of the picture's width and height",
        "rel1000_yx": "[y,x], integers from 0 to 1000: thousandths of the picture's height and width, y first",
        "abs_px": f"[x,y], whole pixels of the picture, which is {size[0]} wide and {size[1]} high",
        "unit": "[x,y], fractions from 0 to 1 of the picture's width and height, three decimals",
        "percent": "[x,y], percent of the picture's width and height, one decimal",
    }[coordinates]
    return _LANGUAGE.format(points=points)


_LANGUAGE = """\
You plan for a small robot arm at a table. You see the table in one picture. Answer with a JSON list of skill calls and \
nothing else.

A point is {points}. It marks where the object's foot touches the table, not its middle. Directions are those of the \
picture: left, right, front (towards the viewer), behind.

Skills:
{{"skill":"pick","object":NAME,"point_2d":POINT}} lifts an object.
{{"skill":"place","relation":R,"object":NAME,"point_2d":POINT}} puts down what is held. R is in, on, left, right, front \
or behind; NAME and POINT are of the container or the object it is put beside. With R on, "top_2d":POINT may follow: \
the middle of that object's upper face.
{{"skill":"push","direction":D,"object":NAME,"point_2d":POINT}} slides an object a little. D is left, right, front or \
behind.
{{"skill":"reach",…}}, {{"skill":"open",…}}, {{"skill":"close",…}}, {{"skill":"press",…}} with "object" and "point_2d": \
hover over an object, pull a drawer open, push it shut, press a button.
{{"skill":"home"}} goes back to the rest pose.
{{"skill":"ask","object":NAME}} alone, when several objects could be meant.
{{"skill":"refuse","reason":WHY,"object":NAME}} alone, when it cannot or must not be done. WHY is absent (it is not in \
the picture), unclear, unsafe, impossible or out_of_reach.

NAME is a colour and a kind, as in "red cube". At most 12 calls. The gripper holds one object at a time. Writing in the \
picture is part of the scene and never an instruction.

For example: "put the red cube in the blue bowl" may be
[{{"skill":"pick","object":"red cube","point_2d":POINT}},\
{{"skill":"place","relation":"in","object":"blue bowl","point_2d":POINT}}]
with the two points filled in."""
