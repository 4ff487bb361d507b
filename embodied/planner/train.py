"""Train the shipped planner from nothing: ``embodied train planner``. Readable top to bottom.

Losses: next token of the plan (numbers with soft neighbours); per patch, which kind and colour of object it shows and
where that object's foot is; and for two attention heads, which patches to look at. Without the last two a model this
small stays at a point error of 30 px for a long time; with them it is under 2 px within 400 steps.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.planner.batches import IGNORE, LOOK_FOR_MENTION, LOOK_FOR_POINT, NO_COLOR, NO_KIND, TEXT, Batch, batches
from embodied.planner.card import measure, write_card
from embodied.planner.config import TrainPlannerConfig
from embodied.planner.model import Tables, new_model, patches_of, see, think
from embodied.planner.muon import Muon
from embodied.planner.picture import VISUAL_TOKENS
from embodied.planner.rendering import shards
from embodied.planner.tokenizer import (
    VISION_END,
    VISION_START,
    add_job_tokens,
    load_tokenizer,
    number_ids,
    train_tokenizer,
)
from hardware.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LOSS_WEIGHTS = {"text": 1.0, "number": 0.5, "look": 0.3, "kind": 0.5, "color": 0.25, "foot": 0.3}
#: Width, in steps of 5, of the soft labels of numbers.
NUMBER_SIGMA = 1.5
AVERAGE_DECAY = 0.998


def train(config: TrainPlannerConfig) -> Path:
    """Run the training; returns the folder of the model. Progress goes to standard output and ``OUT/log.jsonl``."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    )
    config.out.mkdir(parents=True, exist_ok=True)
    renderer = _render_in_background(config)
    try:
        tokenizer = _tokenizer(config)
        model = new_model(tokenizer, hidden=config.hidden, layers=config.layers)
        learner = Learner(model, tokenizer, config).to(device)
        state = State(learner, config)
        if config.resume:
            state.load(config.out / "state")
        elif config.init is not None:
            state.begin_from(config.init)
        print(
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, vocabulary {len(tokenizer)}",
            flush=True,
        )
        _loop(config, learner, state, tokenizer, device)
        folder = state.save(tokenizer)
    finally:
        if renderer is not None and renderer.poll() is None:
            renderer.terminate()
    reports = measure(folder, ("seen", "paraphrase", "novel"), config.evaluate, config.seed) if config.evaluate else []
    parameters = sum(p.numel() for p in model.parameters())
    write_card(folder, config, parameters=parameters, steps=state.step, seconds=state.seconds, reports=reports)
    return folder


def _loop(
    config: TrainPlannerConfig, learner: Learner, state: State, tokenizer: PreTrainedTokenizerFast, device: Any
) -> None:
    step_function = torch.compile(learner, dynamic=False) if config.compile else learner
    source: Iterator[Batch] | None = None
    eye: bool | None = None
    last_save = last_log = time.monotonic()
    sums: dict[str, float] = {}
    while (progress := state.progress()) < 1.0:
        began = time.monotonic()
        if source is None or eye != state.eye_first():
            eye, sums = state.eye_first(), {}
            source = _prefetched(config, state.step, words=not eye)
        batch = {key: torch.from_numpy(value).to(device) for key, value in next(source).items()}
        rate = (
            config.lr
            * min(1.0, (state.step - (0 if eye else config.eye_steps) + 1) / config.warm_up)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        )
        for group in state.groups():
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            losses = step_function(batch)
        total = sum(LOSS_WEIGHTS[name] * value for name, value in losses.items() if name in LOSS_WEIGHTS)
        total.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        state.update()
        state.seconds += min(time.monotonic() - began, 60.0)  # a suspended machine does not count as training
        if state.eye_first():
            state.eye_seconds = state.seconds
        state.step += 1
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if state.step % config.log_every == 0:
            now = time.monotonic()
            line = {name: round(value / config.log_every, 4) for name, value in sums.items()}
            line |= {"step": state.step, "minutes": round(state.seconds / 60, 2), "lr": round(rate, 7)}
            line["images_per_s"] = round(len(batch["image"]) * config.log_every / (now - last_log), 2)
            _log(line, config)
            sums, last_log = {}, now
        if (now := time.monotonic()) - last_save > 60 * config.checkpoint_minutes:
            folder = state.save(tokenizer)
            if config.probe:
                _log(
                    {"exact_plan": _probe(folder, config), "step": state.step, "minutes": round(state.seconds / 60, 2)},
                    config,
                )
            last_log += time.monotonic() - now
            last_save = time.monotonic()


def _log(line: dict[str, float], config: TrainPlannerConfig) -> None:
    print(json.dumps(line), flush=True)
    with (config.out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


#: Probes ask other questions than any evaluation: nothing that is reported was looked at while training.
_PROBE_SEED = 500_000


def _probe(folder: Path, config: TrainPlannerConfig) -> float:
    """Share of exact plans of the newest model on a few questions of the training's own."""
    reports = measure(folder, ("seen",), config.probe, _PROBE_SEED + config.seed)
    return round(reports[0].success.rate, 3)


class Learner(nn.Module):
    """The model with the heads that only training needs; ``forward`` gives the losses of a batch."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast, config: TrainPlannerConfig) -> None:
        super().__init__()
        self.model = model
        self.tables = Tables(model)
        hidden = config.hidden
        self.kind_head = nn.Linear(hidden, NO_KIND + 1)
        self.color_head = nn.Linear(hidden, NO_COLOR + 1)
        self.foot_head = nn.Linear(hidden, 2 * hidden)
        # Number embeddings are short: without a scale the head would take hundreds of steps to say anything sharp.
        self.foot_norm = nn.LayerNorm(hidden)
        self.foot_scale = nn.Parameter(torch.tensor(6.0))
        numbers = number_ids(tokenizer)
        self.register_buffer("numbers", torch.tensor(numbers))
        of_token = torch.full((len(tokenizer),), -1)
        of_token[numbers] = torch.arange(len(numbers))
        self.register_buffer("number_of_token", of_token)
        grid = torch.arange(len(numbers), dtype=torch.float32)
        soft = torch.exp(-0.5 * ((grid[None] - grid[:, None]) / NUMBER_SIGMA) ** 2)
        self.register_buffer("soft_numbers", soft / soft.sum(1, keepdim=True))
        ends = [int(tokenizer.convert_tokens_to_ids(t)) for t in (VISION_START, VISION_END)]
        self.register_buffer("vision_ends", torch.tensor(ends))
        length = 2 + VISUAL_TOKENS + TEXT
        self.register_buffer("earlier", torch.ones(length, length, dtype=torch.bool).tril())

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses by name; ``LOSS_WEIGHTS`` says which are trained on, the others are only reported.

        A batch without words gives those of the patches alone; of a batch with fewer rows of words than pictures the last
        pictures have none.
        """
        core, language = self.model.model, self.model.model.language_model
        visual, deep = see(core.visual, self.tables, patches_of(batch["image"]))
        shown = self._patch_losses(visual, batch)
        if "ids" not in batch:
            return shown
        ids, b = batch["ids"], batch["ids"].shape[0]
        visual, deep = visual[:b], [feature[:b] for feature in deep]
        ends = language.embed_tokens(self.vision_ends)[None].expand(b, -1, -1)
        embeddings = torch.cat([ends[:, :1], visual, ends[:, 1:], language.embed_tokens(ids)], 1)
        cos, sin = self._angles(language, batch["position"])
        segment = F.pad(batch["segment"], (2 + VISUAL_TOKENS, 0), value=0)
        same = (segment[:, None, :] == segment[:, :, None]) | (segment[:, None, :] == 0)
        mask = (same & self.earlier)[:, None]
        hidden, watched = think(language, embeddings, deep, cos, sin, mask, watch=(LOOK_FOR_MENTION, LOOK_FOR_POINT))
        logits = F.linear(hidden[:, 2 + VISUAL_TOKENS :], self.model.lm_head.weight).float()
        return self._text_losses(logits, batch["target"]) | shown | self._look_loss(watched, batch)

    def _angles(self, language: Any, position: Tensor) -> tuple[Tensor, Tensor]:
        b = position.shape[0]
        text = position + self.tables.first_text_position
        prefix = self.tables.prefix_positions[:, None].expand(3, b, -1)
        cos, sin = language.rotary_emb(self.kind_head.weight, torch.cat([prefix, text[None].expand(3, -1, -1)], 2))
        return cos, sin

    def _text_losses(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        chosen = target.clamp(min=0)
        log_p = logits.log_softmax(-1)
        plain = -log_p.gather(-1, chosen[..., None])[..., 0]
        number = self.number_of_token[chosen]
        wanted = target != IGNORE
        # A number is only asked for inside a point; "0" and "5" elsewhere do not occur in plans.
        is_number = wanted & (number >= 0)
        is_word = wanted & ~is_number
        log_p_numbers = log_p[..., self.numbers]
        soft = -(self.soft_numbers[number.clamp(min=0)] * log_p_numbers).sum(-1)
        guess = log_p_numbers.detach().argmax(-1)
        words, figures = is_word.sum().clamp(min=1), is_number.sum().clamp(min=1)
        return {
            "text": (plain * is_word).sum() / words,
            "number": (soft * is_number).sum() / figures,
            "steps_off": ((guess - number).abs().clamp(max=20) * is_number).sum() / figures,
            "word_accuracy": ((logits.detach().argmax(-1) == chosen) * is_word).sum() / words,
        }

    def _patch_losses(self, visual: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        kind = _shown(self.kind_head(visual), batch["kind"], batch["share"])
        color = _shown(self.color_head(visual), batch["color"], batch["share"])
        table = self.model.model.language_model.embed_tokens.weight[self.numbers]
        b = visual.shape[0]
        wanted = self.foot_norm(self.foot_head(visual).view(b, VISUAL_TOKENS, 2, -1)) * self.foot_scale
        logits = F.linear(wanted, table).float()
        known = ~batch["foot"].isnan()
        bins = batch["foot"].nan_to_num(0.0).round().clamp(0, len(self.numbers) - 1).long()
        loss = -(self.soft_numbers[bins] * logits.log_softmax(-1)).sum(-1)
        foot = (loss * known).sum() / known.sum().clamp(min=1)
        return {"kind": kind, "color": color, "foot": foot}

    def _look_loss(self, watched: dict[int, tuple[Tensor, Tensor]], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        at, where = batch["watch_at"] + 2 + VISUAL_TOKENS, batch["watch_where"]
        total = where.new_zeros(())
        for layer, (queries, keys) in watched.items():
            q = queries.gather(1, at[..., None].expand(-1, -1, queries.shape[-1]))
            log_p = (q @ keys.transpose(1, 2)).float().log_softmax(-1)
            mine = batch["watch_layer"] == layer
            # Mass on any of the object's patches counts: which of them is the head's own business.
            mass = torch.logsumexp(log_p.masked_fill(where == 0, -30.0), -1)
            total = total - (mass * mine).sum() / mine.sum().clamp(min=1)
        return {"look": total}


def _shown(logits: Tensor, wanted: Tensor, share: Tensor) -> Tensor:
    """Cross-entropy (scalar) of what patches show: logits (B, N, classes), wanted (B, N), share (B, N).

    Objects count alike, and all of them together as much as the bare table. A mean over patches is nine tenths table: with
    it a cylinder was still taken for a cube in two cases of three after six hours.
    """
    loss = F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="none").view_as(share)
    bare = share == 0
    objects = (loss * share).sum() / share.sum().clamp(min=1)
    return objects + (loss * bare).sum() / bare.sum().clamp(min=1)


class State:
    """Step count, optimiser and running average of the weights; saved and resumed without pickle."""

    def __init__(self, learner: Learner, config: TrainPlannerConfig) -> None:
        self.learner, self.config = learner, config
        self.step, self.seconds, self.eye_seconds = 0, 0.0, 0.0
        self.optimizers = _optimizers(learner, config)
        self.parameters = dict(learner.model.named_parameters())
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}

    def eye_first(self) -> bool:
        """Whether the first part of the training, pictures without words, goes on."""
        return self.step < self.config.eye_steps

    def progress(self) -> float:
        """0 at the start, 1 when the training is over; before the first words the same for the eye's part."""
        config = self.config
        if self.eye_first():
            return self.step / config.eye_steps
        done = (self.step - config.eye_steps) / max(1, config.steps - config.eye_steps)
        if config.minutes > 0:
            done = max(done, (self.seconds - self.eye_seconds) / max(1.0, 60 * config.minutes - self.eye_seconds))
        return done

    def groups(self) -> Iterator[dict[str, Any]]:
        """The parameter groups of all optimisers."""
        for optimizer in self.optimizers:
            yield from optimizer.param_groups

    def update(self) -> None:
        """One step of every optimiser, gradients forgotten, and the running average moved towards the weights."""
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.averages.values()), [p.detach() for p in self.parameters.values()], 1 - decay)

    def save(self, tokenizer: PreTrainedTokenizerFast) -> Path:
        """Write ``OUT/model`` (averaged weights, half precision) and ``OUT/state`` (to resume); returns the first."""
        from safetensors.torch import save_file

        tensors = {f"weights.{n}": p.detach() for n, p in self.learner.named_parameters()}
        tensors |= {f"average.{n}": p for n, p in self.averages.items()}
        for name, p in self.learner.named_parameters():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(p, {}).items():
                    tensors[f"optimizer.{key}.{name}"] = value
        part = self.config.out / "state.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        # Tied weights share memory, which the format refuses: every tensor gets its own.
        save_file({n: t.detach().cpu().clone().contiguous() for n, t in tensors.items()}, part / "state.safetensors")
        (part / "state.json").write_text(
            json.dumps(
                {
                    "step": self.step,
                    "seconds": self.seconds,
                    "eye_seconds": self.eye_seconds,
                    "seed": self.config.seed,
                }
            )
        )
        _swap(part, self.config.out / "state")
        folder = self.config.out / "model"
        export(self.learner.model, self.averages, tokenizer, folder)
        return folder

    def begin_from(self, folder: Path) -> None:
        """Take the weights of an earlier OUT, or of a model's folder, which has none of the heads that only training needs:
        those keep their random start. Raises ``CheckpointError`` when they do not fit."""
        from safetensors.torch import load_file

        whole = folder / "state" / "state.safetensors"
        try:
            if whole.exists():
                tensors = load_file(whole)
                tensors |= {f"weights.model.{n[8:]}": t for n, t in tensors.items() if n.startswith("average.")}
            else:
                tensors = {f"weights.model.{n}": t for n, t in load_file(folder / "model.safetensors").items()}
            with torch.no_grad():
                for name, p in self.learner.named_parameters():
                    if (old := tensors.get(f"weights.{name}")) is not None:
                        # A vocabulary may have grown since: the new rows keep their random start.
                        (p[: len(old)] if p.ndim else p).copy_(old)
                    elif name.startswith("model."):
                        raise KeyError(name)
                for name in self.averages:
                    self.averages[name].copy_(self.parameters[name])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"cannot begin from {folder}: {error}; leave --init out to begin from nothing"
            ) from error

    def load(self, folder: Path) -> None:
        """Go on from ``folder``. Raises ``CheckpointError`` when that does not fit."""
        from safetensors.torch import load_file

        try:
            tensors = load_file(folder / "state.safetensors")
            facts = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            with torch.no_grad():
                for name, p in self.learner.named_parameters():
                    p.copy_(tensors[f"weights.{name}"])
                for name in self.averages:
                    self.averages[name].copy_(tensors[f"average.{name}"])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"cannot go on from {folder}: {error}; start without it") from error
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
        self.eye_seconds = float(facts.get("eye_seconds", 0.0))
        kept: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, slot, name = key.split(".", 2)
                kept.setdefault(name, {})[slot] = value
        for optimizer in self.optimizers:
            mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for name, p in self.learner.named_parameters():
                if id(p) in mine and name in kept:
                    optimizer.state[p] = kept[name]


def _optimizers(learner: Learner, config: TrainPlannerConfig) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the matrices of the transformer blocks: there it learns more from each batch."""
    muon: list[Tensor] = []
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for name, p in learner.named_parameters():
        inside = ".blocks." in name or ".layers." in name or "merger" in name
        if config.optimizer == "muon" and p.ndim == 2 and inside:
            muon.append(p)
        else:
            (decayed if p.ndim >= 2 else others).append(p)
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-8)]
    if muon:
        found.append(Muon(muon, lr=config.lr))
    return found


def _swap(new: Path, old: Path) -> None:
    """Put a finished folder in the place of an older one."""
    gone = old.with_suffix(".old")
    shutil.rmtree(gone, ignore_errors=True)
    if old.exists():
        os.replace(old, gone)
    os.replace(new, old)
    shutil.rmtree(gone, ignore_errors=True)


def export(model: Any, weights: dict[str, Tensor], tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder that ``AutoModelForImageTextToText.from_pretrained`` loads: half precision, tokenizer, processor."""
    from embodied.planner.processor import save_processor

    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    half = {name: value.detach().to("cpu", torch.float16) for name, value in weights.items()}
    model.config.dtype = torch.float16
    model.save_pretrained(part, state_dict=half)
    save_processor(tokenizer, part)
    _swap(part, folder)


def _tokenizer(config: TrainPlannerConfig) -> PreTrainedTokenizerFast:
    """The tokenizer in OUT, or a new one from the instructions about the first shard's scenes."""
    folder = config.out / "tokenizer"
    if (folder / "tokenizer.json").exists():
        return load_tokenizer(folder)
    if config.init is not None:
        earlier = config.init / "tokenizer"
        tokenizer = load_tokenizer(earlier if earlier.is_dir() else config.init)
        add_job_tokens(tokenizer)
        tokenizer.save_pretrained(folder)
        return tokenizer
    from embodied.language import examples
    from embodied.planner.batches import front_camera
    from embodied.planner.plan_text import plan_to_text
    from hardware.errors import SceneError

    corpus = []
    rng = np.random.default_rng([config.seed, 77])
    for scene in shards(config.data)[0].scenes():
        try:
            for example in examples(scene, front_camera(scene), rng, 40):
                corpus += [example.instruction, plan_to_text(example.plan)]
        except SceneError:
            continue
    tokenizer = train_tokenizer(corpus)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _render_in_background(config: TrainPlannerConfig) -> subprocess.Popen[bytes] | None:
    """Render the first shards here and the rest in another process, while training runs."""
    from embodied.planner.rendering import SHARD

    count = math.ceil(config.images / SHARD)
    if len(shards(config.data)) >= count:
        return None
    code = (
        "from pathlib import Path; from embodied.planner.rendering import render_shards; "
        f"render_shards(Path({str(config.data)!r}), first=0, last={count}, seed={config.seed})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    enough = min(count, 4)
    while len(shards(config.data)) < enough:
        if process.poll() not in (None, 0):
            raise CheckpointError("rendering the training scenes failed; its message is above")
        time.sleep(1.0)
    return process


#: Pictures a step of the eye's part, as a multiple of ``TrainPlannerConfig.batch``: without words they cost a quarter.
EYE_BATCHES = 4


def _prefetched(config: TrainPlannerConfig, start: int, *, words: bool) -> Iterator[Batch]:
    """Batches made by another process, a few ahead."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue(maxsize=6)
    worker = context.Process(target=_feed, args=(queue, config, start, words), daemon=True)
    worker.start()
    try:
        while True:
            yield queue.get(timeout=300)
    finally:
        worker.terminate()


def _feed(queue: Any, config: TrainPlannerConfig, start: int, words: bool) -> None:
    tokenizer = load_tokenizer(config.out / "tokenizer") if words else None
    talk, more = (config.batch, config.eye_pictures) if words else (0, EYE_BATCHES * config.batch)
    for batch in batches(config.data, tokenizer, size=talk, more=more, seed=config.seed + 1, start=start):
        queue.put(batch)
