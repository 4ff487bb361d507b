"""Processor files of the shipped model: tokenizer, chat template and the picture settings.

transformers' ``Qwen3VLProcessor`` insists on a video processor, which needs torchvision; the shipped model sees only
pictures, so its folder holds a plain image processor configuration and the tokenizer, and ``prepare`` does the rest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embodied.planner.picture import COLS, HEIGHT, PATCH, ROWS, VISUAL_TOKENS, WIDTH, shrink
from embodied.planner.tokenizer import IMAGE, START, VISION_END, VISION_START

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


def save_processor(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer and picture settings beside a model."""
    tokenizer.save_pretrained(folder)
    text = json.dumps(IMAGE_SETTINGS, indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")


def prepare(tokenizer: PreTrainedTokenizerFast, rgb: NDArray[np.uint8], words: str) -> dict[str, Any]:
    """Model inputs for one picture (H, W, 3) and one instruction, batch of one, up to where the answer begins."""
    import torch

    from embodied.planner.model import patches_of

    ids = tokenizer(
        f"{VISION_START}{IMAGE * VISUAL_TOKENS}{VISION_END}{words}{START}",
        add_special_tokens=False,
        return_tensors="pt",
    )["input_ids"]
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    picture = torch.from_numpy(shrink(rgb).copy())[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == image).int(),
        "pixel_values": patches_of(picture)[0],
        "image_grid_thw": torch.tensor([[1, ROWS, COLS]]),
    }
