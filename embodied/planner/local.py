"""Plans from a vision-language model on this machine: the shipped one, or any other that transformers loads.

``LocalPlanner()`` is the shipped model; ``LocalPlanner("runs/planner/model")`` one that ``embodied train planner`` wrote;
``LocalPlanner("Qwen/Qwen3-VL-2B-Instruct")`` a name on the hub. ``coordinates="unit"`` says how a model of another family
writes a point. Words and pictures stay on this machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embodied.plan import Plan
from embodied.planner.adapters import ShippedAdapter, choose_adapter, encode, read_plan
from embodied.planner.chat_jobs import MOST_TOKENS, NO_WORDS, YES_WORDS, chat_job_grammar, job_text, read_located
from embodied.planner.checkpoint import Device, DType, load_model, open_checkpoint
from embodied.planner.grammar import PlanMask
from embodied.planner.jobs import (
    JOB_FRAGMENTS,
    NO,
    YES,
    Job,
    Located,
    job_grammar,
    prompt_for,
)
from embodied.planner.plan_text import Coordinates
from embodied.planner.second_look import SHIFTS, moved_back, say_the_same, shifted
from hardware.camera_model import Frame
from hardware.errors import CheckpointError, PlanError

SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "planner"
#: Longer instructions (characters) are refused.
LONGEST = 400


class LocalPlanner:
    """A vision-language model that sees the picture and the words, and nothing else.

    What it has read of a picture is kept, so further words about the same picture come quicker. Safe to use from
    several threads; they wait for each other.
    """

    scripted = False

    def __init__(
        self,
        folder: Path | str = SHIPPED,
        *,
        coordinates: Coordinates | None = None,
        device: Device = "auto",
        dtype: DType = "auto",
    ) -> None:
        """Load the model. ``coordinates`` is for families whose way of pointing is not known here.

        Raises ``CheckpointError`` when it is missing, incomplete, damaged, or of a kind that cannot plan.
        """
        from embodied.planner.decoding import Reader, SmallReader, TransformersReader

        found = open_checkpoint(folder)
        self.folder, self._tokenizer = found.folder, found.tokenizer
        self.name = "local" if self.folder == SHIPPED else str(folder)
        # Before the weights: what the user has to say differently should not cost minutes of loading.
        self._adapter = choose_adapter(found.folder, found.config, found.tokenizer, coordinates)
        self._model = load_model(found.folder, device=device, dtype=dtype)
        quick = isinstance(self._adapter, ShippedAdapter) and SmallReader.fits(self._model)
        self._reader: Reader = SmallReader(self._model) if quick else TransformersReader(self._model)
        try:
            self._mask = PlanMask(self._tokenizer, size=self._model.get_input_embeddings().num_embeddings)
        except ValueError as error:
            raise CheckpointError(
                f"the tokenizer in {self.folder} cannot be held to a grammar ({str(error)[:80]}); use another model"
            ) from error
        self._picture: NDArray[np.uint8] | None = None
        self._size = (0, 0)
        self._lock = threading.Lock()
        self.last_text = ""
        self.last_seconds = 0.0

    @property
    def coordinates(self) -> Coordinates:
        """How this model writes a point."""
        return self._adapter.coordinates

    def plan(
        self,
        instruction: str,
        frame: Frame,
        *,
        holding: str | None = None,
        visible: Sequence[str] | None = None,
    ) -> Plan:
        """The plan for an instruction in the scene of a picture.

        ``holding``: what the gripper holds, None for nothing; ``visible``: names of the objects that motions may be
        about, None for any. Both bind the answer. The shipped kind of model looks again before it refuses or asks back. Raises
        ``PlanError`` for words that are none.
        """
        words = _checked(instruction)
        with self._lock:
            began, self.last_text = time.perf_counter(), ""
            plan = self._plan(words, frame.rgb, holding, visible)
            # What is refused as unsafe is so because of the words: no picture overrules that.
            doubtful = plan.speech is not None and getattr(plan.speech, "reason", "") != "unsafe"
            if doubtful and isinstance(self._adapter, ShippedAdapter):
                plan = self._second_look(plan, words, frame.rgb, holding, visible)
            self.last_seconds = time.perf_counter() - began
            return plan

    def _plan(self, words: str, rgb: NDArray[np.uint8], holding: str | None, visible: Sequence[str] | None) -> Plan:
        self._look(rgb)
        grammar = self._adapter.grammar(self._size, holding, visible)
        self.last_text = self._say(self._adapter.words(words, holding, visible), grammar)
        return read_plan(self.last_text, self._adapter.coordinates, self._size)

    def _second_look(
        self, refusal: Plan, words: str, rgb: NDArray[np.uint8], holding: str | None, visible: Sequence[str] | None
    ) -> Plan:
        """The refusal, unless all shifted pictures give one and the same plan."""
        text, seen = self.last_text, list[Plan]()
        for shift in SHIFTS:
            seen.append(moved_back(self._plan(words, shifted(rgb, shift), holding, visible), shift))
            if seen[-1].speech is not None or not say_the_same(seen[0], seen[-1]):
                self.last_text = text
                return refusal
        return seen[-1]

    def answer(self, words: str, frame: Frame, grammar: str) -> str:
        """The text that a model says to ``words`` about a picture within a Lark ``grammar``: for jobs other than plans.

        The model must have learned the job; nothing is explained to it. Raises ``PlanError`` as ``plan`` does.
        """
        words = _checked(words)
        with self._lock:
            self._look(frame.rgb)
            return self._say(self._adapter.words(words, None, None), grammar)

    def locate(self, query: str, frame: Frame) -> tuple[Located, ...]:
        """Where what ``query`` names is, from left to right; nothing when it is not there. Raises ``PlanError``."""
        return self._located("point", _checked(query), frame)

    def describe(self, frame: Frame) -> tuple[Located, ...]:
        """The objects in the picture, from left to right. Raises ``PlanError``."""
        return self._located("describe", "", frame)

    def verify(self, question: str, frame: Frame) -> float:
        """The model's probability, 0..1, that the answer to a yes/no question about the picture is yes."""
        import torch

        words = _checked(question)
        yes_words, no_words = ((YES,), (NO,)) if self._shipped("verify") else (YES_WORDS, NO_WORDS)
        with self._lock, torch.inference_mode():
            self._look(frame.rgb)
            logits = self._reader.read(self._job_words("verify", words))
            yes, no = (torch.logsumexp(logits[self._first_tokens(said)], 0) for said in (yes_words, no_words))
            return float(torch.sigmoid(yes - no))

    def _located(self, job: Job, words: str, frame: Frame) -> tuple[Located, ...]:
        shipped = self._shipped(job)
        with self._lock:
            self._look(frame.rgb)
            coordinates, size = self._adapter.coordinates, self._size
            grammar = job_grammar(job) if shipped else chat_job_grammar(job, coordinates, size)
            most = self._adapter.most_tokens if shipped else MOST_TOKENS
            text = self._say(self._job_words(job, words), grammar, most)
            return read_located(text, coordinates, size)

    def _job_words(self, job: Job, words: str) -> list[int]:
        text = prompt_for(job, words) if self._shipped(job) else job_text(job, words)
        return self._adapter.words(text, None, None)

    def _first_tokens(self, words: Sequence[str]) -> list[int]:
        return sorted({encode(self._tokenizer, word)[0] for word in words})

    def _shipped(self, job: Job) -> bool:
        """Whether the model is of the small kind, which must have learned the job; others are asked in words."""
        if not isinstance(self._adapter, ShippedAdapter):
            return False
        if not self._tokenizer.get_vocab().keys() >= set(JOB_FRAGMENTS):
            raise PlanError(f"the planner {self.name} has not learned the job {job!r}; use --planner local for it")
        return True

    def _look(self, rgb: NDArray[np.uint8]) -> None:
        """Read the picture, or go back to where it has just been read."""
        import torch

        if self._picture is not None and np.array_equal(self._picture, rgb) and self._reader.set_back():
            return
        self._picture = None  # what fails on the way must not be taken for read
        with torch.inference_mode():
            prefix = self._adapter.look(rgb)
            self._reader.start(prefix.ids, prefix.inputs)
        self._picture, self._size = rgb.copy(), prefix.size

    def _say(self, words: Sequence[int], grammar: str, most: int | None = None) -> str:
        import torch

        from embodied.planner.decoding import decode

        with torch.inference_mode():
            answer = decode(self._reader, words, self._mask.follow(grammar), most=most or self._adapter.most_tokens)
        return str(self._tokenizer.decode(answer, skip_special_tokens=True))


def _checked(instruction: str) -> str:
    words = " ".join(instruction.split())
    if not words:
        raise PlanError('the instruction is empty; say what to do, for example "put the red cube in the blue bowl"')
    if len(words) > LONGEST:
        raise PlanError(f"the instruction is longer than {LONGEST} characters; say it in fewer words or several steps")
    return words
