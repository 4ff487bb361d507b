"""Plans from a model folder on this machine: the shipped one, or any that ``embodied train planner`` wrote."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from embodied.plan import Plan
from embodied.planner.grammar import PlanMask, plan_grammar
from embodied.planner.plan_text import parse_plan
from embodied.planner.processor import prepare
from hardware.camera_model import Frame
from hardware.errors import CheckpointError, PlanError

SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "planner"
_MOST_TOKENS = 220
_SMALL = 20_000_000
_FILES = ("config.json", "model.safetensors", "tokenizer.json")


class LocalPlanner:
    """A vision-language model that sees the picture and the words, and nothing else."""

    scripted = False

    def __init__(self, folder: Path | str = SHIPPED) -> None:
        """Load the model. Raises ``CheckpointError`` when the folder is missing, incomplete or corrupted."""
        self.folder = Path(folder)
        self.name = "local" if self.folder == SHIPPED else str(folder)
        self._model, self._tokenizer = _load(self.folder)
        self._mask = PlanMask(self._tokenizer)
        self._grammar = plan_grammar()
        self.last_text = ""
        self.last_seconds = 0.0

    def plan(self, instruction: str, frame: Frame) -> Plan:
        """The plan for an instruction in the scene of a picture. Raises ``PlanError`` for words that are none."""
        words = " ".join(instruction.split())
        if not words:
            raise PlanError('the instruction is empty; say what to do, for example "put the red cube in the blue bowl"')
        if len(words) > 400:
            raise PlanError("the instruction is longer than 400 characters; say it in fewer words or in several steps")
        began = time.perf_counter()
        self.last_text = self._generate(words, frame)
        self.last_seconds = time.perf_counter() - began
        return parse_plan(self.last_text)

    def _generate(self, words: str, frame: Frame) -> str:
        import torch
        from transformers import LogitsProcessorList

        inputs = prepare(self._tokenizer, frame.rgb, words)
        with torch.inference_mode():
            out = self._model.generate(
                **inputs,
                max_new_tokens=_MOST_TOKENS,
                do_sample=False,
                logits_processor=LogitsProcessorList([self._mask.start(self._grammar)]),
            )
        answer = out[0, inputs["input_ids"].shape[1] :]
        return str(self._tokenizer.decode(answer, skip_special_tokens=True))


def _load(folder: Path) -> tuple[Any, Any]:
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"no planner in {folder}: {', '.join(missing)} missing; name another folder with --planner, "
            "or train one with: embodied train planner"
        )
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    from embodied.planner.tokenizer import load_tokenizer

    logging.disable_progress_bar()
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
        tokenizer = load_tokenizer(folder)
    except Exception as error:  # whatever a damaged file raises, the user needs the same sentence
        raise CheckpointError(
            f"the planner in {folder} cannot be read ({type(error).__name__}: {str(error)[:120]}); "
            "restore the folder or train a new one with: embodied train planner"
        ) from error
    if sum(p.numel() for p in model.parameters()) < _SMALL:
        # Matrices this small gain nothing from a second thread, and lose much when another process wants its core.
        torch.set_num_threads(1)
    return model.eval(), tokenizer
