"""Processor files of the shipped model: tokenizer, chat template and the picture settings; and its prompt.

transformers' own ``Qwen3VLProcessor`` insists on a video processor, which needs torchvision. The shipped model sees only
pictures, so its folder names ``PaddleOCRVLProcessor`` instead: another model's class, but exactly what is wanted, an
image processor and a tokenizer of which one image token becomes as many as the picture has patches. With it
``AutoProcessor``, and so ``transformers serve`` and ``pipeline``, load the folder with or without torchvision, and
give the same inputs as ``prepare`` here, which the planner uses because it is quicker.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embodied.planner.picture import COLS, HEIGHT, PATCH, ROWS, VISUAL_TOKENS, WIDTH, shrink
from embodied.planner.tokenizer import END, IMAGE, PAD, START, VISION_END, VISION_START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: For transformers' Qwen2-VL image processors: our normalisation and patching. They round to multiples of the patch
#: size within the pixel bounds, which for a 4:3 picture is exactly 256 x 192.
IMAGE_SETTINGS: dict[str, Any] = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
    "do_resize": True,
    "resample": 3,
    "patch_size": PATCH,
    "temporal_patch_size": 1,
    "merge_size": 1,
    "size": {"shortest_edge": WIDTH * HEIGHT, "longest_edge": WIDTH * HEIGHT},
}


#: What ``AutoProcessor`` needs to find in the folder.
PROCESSOR_SETTINGS = {"processor_class": "PaddleOCRVLProcessor"}
#: What it needs to find in the tokenizer's settings: which token stands for the picture, and where in a decoded
#: sequence the answer is (``transformers serve`` would look for Qwen's own "assistant" and return the prompt as well).
TOKENIZER_SETTINGS: dict[str, Any] = {
    "image_token": IMAGE,
    "response_template": {
        "defaults": {"role": "assistant"},
        "start_anchor": START,
        "fields": {"content": {"close": [END, PAD], "content": "text"}},
    },
}


def save_processor(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer, processor and picture settings beside a model."""
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for name, content in (
        ("tokenizer_config.json", {**settings, **TOKENIZER_SETTINGS}),
        ("processor_config.json", PROCESSOR_SETTINGS),
        ("preprocessor_config.json", IMAGE_SETTINGS),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def prefix_text() -> str:
    """What stands before the words in every prompt."""
    return f"{VISION_START}{IMAGE * VISUAL_TOKENS}{VISION_END}"


def prepare_picture(rgb: NDArray[np.uint8]) -> dict[str, Any]:
    """The picture's part of the model inputs: ``pixel_values`` (192, 768) and ``image_grid_thw`` (1, 3)."""
    import torch

    from embodied.planner.model import patches_of

    picture = torch.from_numpy(shrink(rgb).copy())[None]
    return {"pixel_values": patches_of(picture)[0], "image_grid_thw": torch.tensor([[1, ROWS, COLS]])}


def prepare(tokenizer: PreTrainedTokenizerFast, rgb: NDArray[np.uint8], words: str) -> dict[str, Any]:
    """Model inputs for one picture (H, W, 3) and one instruction, batch of one, up to where the answer begins."""
    import torch

    ids = tokenizer(f"{prefix_text()}{words}{START}", add_special_tokens=False, return_tensors="pt")["input_ids"]
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == image).int(),
        **prepare_picture(rgb),
    }
