"""Trains the point policy from nothing: demonstrations, imitation, corrections on its own mistakes, evaluation, card.

    1  collect   ``demos`` successful expert demonstrations per skill, with injected noise      <data>/demos/*.npz
    2  imitate   ``updates`` steps of behaviour cloning; an average of the weights (EMA) is kept
    3  correct   ``rounds`` times: the policy acts, the expert takes over or says what it would do <data>/round1/*.npz
                 and training goes on with everything collected so far
    4  measure   on episodes never seen in training; the figures go into the model card

Every stage can be interrupted; the same command with ``--resume`` goes on where it stopped, and gives the same weights
as an uninterrupted run on the same machine.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware.errors import CheckpointError
from policies.goal import SKILLS, Skill

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from policies.data import Demo, DemoSet
    from policies.point import PointNetwork


@dataclass(frozen=True)
class TrainConfig:
    """Train the low-level policy: collect demonstrations, imitate, correct, measure, write a model card."""

    out: Path = Path("runs/policy")
    """Folder for the weights and the model card."""
    data: Path = Path("data/policy")
    """Folder for demonstrations; those already there are used again."""
    skills: tuple[Skill, ...] = SKILLS
    """Which skills to learn."""
    demos: int = 300
    """Demonstrations per skill."""
    rounds: int = 1
    """Rounds of correction (DAgger) after imitation."""
    corrections: int = 100
    """Episodes per skill and round of correction."""
    updates: int = 8000
    """Gradient steps of imitation."""
    round_updates: int = 6000
    """Gradient steps after each round of correction."""
    batch: int = 512
    """Rows per gradient step."""
    learning_rate: float = 1e-3
    """Peak learning rate; it rises over 200 steps and falls to a fiftieth along a cosine."""
    weight_decay: float = 1e-3
    """AdamW's weight decay."""
    ema: float = 0.999
    """Decay of the running average of the weights that is saved."""
    goal_noise_m: float = 0.001
    """Standard deviation of the noise on goal points, drawn anew for every row."""
    joint_noise_rad: float = 0.002
    """Standard deviation of the noise on the joint history."""
    width: int = 384
    """Hidden units per layer of the network."""
    layers: int = 3
    """Hidden layers of the network."""
    evaluate: int = 100
    """Episodes per skill of the evaluation at the end; 0 leaves it out."""
    workers: int = 1
    """Processes that collect demonstrations."""
    seed: int = 0
    """Seed of everything random."""
    save_every: int = 1000
    """Gradient steps between two saved training states."""
    resume: bool = False
    """Go on with an interrupted training in ``out``."""

    def __post_init__(self) -> None:
        unknown = [skill for skill in self.skills if skill not in SKILLS]
        if unknown or not self.skills:
            raise ValueError(f"unknown skills: {', '.join(unknown) or '(none given)'}; there are: {', '.join(SKILLS)}")
        for name in ("demos", "updates", "round_updates", "batch", "width", "layers", "workers", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.seed <= 9999:
            raise ValueError(f"seed must lie in 0..9999 so that evaluation seeds stay unseen, not {self.seed}")


@dataclass
class TrainState:
    """Everything that changes during training, so that it can be put aside and taken up again."""

    network: PointNetwork
    average: PointNetwork  # exponential moving average of the weights
    optimizer: torch.optim.AdamW
    round: int = 0
    update: int = 0  # within the round
    log: list[dict[str, float]] = field(default_factory=list)
    before_s: float = 0.0  # time spent by earlier runs that this one resumes
    started_s: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time spent so far, interrupted runs included."""
        return self.before_s + time.perf_counter() - self.started_s


def train(config: TrainConfig, *, console: Console | None = None) -> dict[str, Any]:
    """Run every stage and write ``config.out``. Returns the evaluation (empty without one).

    Raises ``CheckpointError`` when ``resume`` finds nothing usable or the output folder cannot be written.
    """
    import torch
    from rich.console import Console

    from policies.collect import collect_shards
    from policies.data import DemoSet
    from policies.point import PointConfig

    say = console or Console(stderr=True)
    torch.manual_seed(config.seed)
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "state").mkdir(exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {config.out}: {error.strerror}; choose another folder with --out"
        ) from error

    state = new_state(config)
    if config.resume:
        load_state(config.out / "state", state)
        say.print(f"resumed at round {state.round}, update {state.update}")
    demos: list[Demo] = collect_shards(
        config.data, config.skills, config.demos, seed=config.seed, workers=config.workers, console=say
    )
    horizon = PointConfig().horizon
    for round_ in range(config.rounds + 1):
        if round_ > 0:
            if state.round < round_:  # the policy that makes the mistakes is the one at the end of the last round
                save_weights(config, state)
            demos += collect_shards(
                config.data, config.skills, config.corrections, seed=config.seed, round_=round_,
                policy_folder=config.out, workers=config.workers, console=say,
            )  # fmt: skip
        if round_ < state.round:
            continue
        if state.round < round_:
            state.round, state.update = round_, 0
        fit(config, state, DemoSet(demos, horizon), console=say)
        save_state(config.out / "state", state)
    say.print(f"trained in {state.seconds:.0f} s on {len(demos)} demonstrations")
    return finish(config, state, console=say)


def new_state(config: TrainConfig) -> TrainState:
    """A fresh network and optimiser."""
    import copy

    import torch

    from policies.point import PointConfig, PointNetwork

    network = PointNetwork(PointConfig(width=config.width, layers=config.layers))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    return TrainState(network, copy.deepcopy(network).requires_grad_(False), optimizer)


def fit(config: TrainConfig, state: TrainState, data: DemoSet, *, console: Console) -> None:
    """Take the gradient steps that are left of the current round."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from policies.point import point_loss

    total = config.updates if state.round == 0 else config.round_updates
    if state.round == 0 and state.update == 0:
        sample = data.draw(np.random.default_rng([config.seed, 1]), min(20_000, 4 * len(data)))
        state.network.fit_statistics(torch.from_numpy(data.raw[sample]), torch.from_numpy(data.chunk[sample]))
        state.average.load_state_dict(state.network.state_dict())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(f"training, round {state.round}", total=total, completed=state.update)
        while state.update < total:
            # Drawn from the step number, so that a resumed run sees the same batches.
            rng = np.random.default_rng([config.seed, 2, state.round, state.update])
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(config, state.update, total)
            losses = point_loss(state.network, noisy_batch(config, data, rng))
            state.optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
            state.optimizer.step()
            _average(
                state, min(config.ema, (1.0 + state.update) / (10.0 + state.update)) if state.round == 0 else config.ema
            )
            state.update += 1
            if state.update % config.save_every == 0 or state.update == total:
                row = {key: float(value.detach()) for key, value in losses.items()}
                state.log.append({"round": state.round, "update": state.update, **row})
                save_state(config.out / "state", state)
                numbers = "  ".join(f"{key} {value:.4f}" for key, value in row.items())
                console.print(f"round {state.round}  update {state.update}/{total}  {numbers}")
            progress.update(bar, completed=state.update)


def learning_rate(config: TrainConfig, update: int, total: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    warm = min(200, total // 10 + 1)
    if update < warm:
        return config.learning_rate * (update + 1) / warm
    along = (update - warm) / max(1, total - warm)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1.0 + float(np.cos(np.pi * along))))


def noisy_batch(config: TrainConfig, data: DemoSet, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """A random batch; goal points and joint history get a little noise so that no trigger hangs on a tenth of a millimetre."""
    import torch

    from policies.features import GOAL_SLICE, PAST_SLICE
    from policies.point import CHUNK, DONE, RAW

    rows = data.draw(rng, config.batch)
    raw = data.raw[rows].copy()
    shift = rng.normal(0.0, config.goal_noise_m, (len(rows), 3))
    raw[:, GOAL_SLICE] += np.tile(shift, 2)  # point and to move together: their difference tells the skills apart
    past = raw[:, PAST_SLICE]
    past += rng.normal(0.0, config.joint_noise_rad, past.shape)
    return {
        RAW: torch.from_numpy(raw),
        CHUNK: torch.from_numpy(data.chunk[rows]),
        DONE: torch.from_numpy(data.done[rows]),
    }


def _average(state: TrainState, decay: float) -> None:
    import torch

    with torch.no_grad():
        for slow, fast in zip(state.average.parameters(), state.network.parameters(), strict=True):
            slow.lerp_(fast, 1.0 - decay)


def save_state(folder: Path, state: TrainState) -> None:
    """Weights, average, optimiser moments and counters, as safetensors and JSON; whole or not at all."""
    import torch
    from safetensors.torch import save_file

    tensors = {f"network.{k}": v for k, v in state.network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in state.average.state_dict().items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
    folder.mkdir(parents=True, exist_ok=True)
    # The counters travel in the header of the same file: two files could disagree after a kill.
    counters = json.dumps({"round": state.round, "update": state.update, "log": state.log, "seconds": state.seconds})
    partial = folder / "state.safetensors.partial"
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata={"counters": counters})
    partial.replace(folder / "state.safetensors")


def load_state(folder: Path, state: TrainState) -> None:
    """Take up what ``save_state`` put aside. Raises ``CheckpointError``."""
    from safetensors import SafetensorError, safe_open

    path = folder / "state.safetensors"
    if not path.is_file():
        raise CheckpointError(f"there is no training to resume: {path} does not exist; start without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            counters = json.loads(file.metadata()["counters"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        state.network.load_state_dict(_under("network.", tensors))
        state.average.load_state_dict(_under("average.", tensors))
        moments: dict[int, dict[str, Any]] = {}
        for key, value in _under("optimizer.", tensors).items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value
        state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"cannot resume from {path}: {str(error).splitlines()[0]}; start without --resume"
        ) from error
    state.round, state.update, state.log = counters["round"], counters["update"], counters["log"]
    state.before_s, state.started_s = counters.get("seconds", 0.0), time.perf_counter()


def _under(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def save_weights(config: TrainConfig, state: TrainState, *, card: str = "", made: dict[str, Any] | None = None) -> None:
    """Write the averaged weights to ``config.out`` as a checkpoint that ``load_policy`` reads."""
    from policies.checkpoint import save_point

    save_point(
        config.out, state.average, card=card or "# Point policy, still in training\n", made=made or {"finished": False}
    )


def finish(config: TrainConfig, state: TrainState, *, console: Console) -> dict[str, Any]:
    """Save, evaluate, and save again with the measured figures in the card."""
    from policies.evaluation import EvalConfig, evaluate

    made: dict[str, Any] = {
        "command": command_line(),
        # Without the folders of the machine that trained it.
        "config": {key: value for key, value in asdict(config).items() if key not in ("out", "data", "resume")},
        "train_seconds": round(state.seconds),
        "losses": state.log[-1:],
        "finished": True,
    }
    save_weights(config, state, card=model_card(config, made, {}), made=made)
    if config.evaluate < 1:
        return {}
    result = evaluate(
        EvalConfig(weights=config.out, episodes=config.evaluate, seed=config.seed, skills=config.skills),
        console=console,
    )
    made["evaluation"] = result
    save_weights(config, state, card=model_card(config, made, result), made=made)
    console.print(f"wrote {config.out}")
    return result


def command_line() -> str:
    """The command that is running, for the model card; free of folders of this machine."""
    arguments: Sequence[str] = sys.argv[1:]
    return shlex.join([Path(sys.argv[0]).name, *arguments])


def model_card(config: TrainConfig, made: dict[str, Any], result: dict[str, Any]) -> str:
    """The model card (Markdown): what it is, what made it, what it can do."""
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: embodied",
        "pipeline_tag: robotics",
        "---",
        "",
        "# Point policy",
        "",
        "A small network (forward-kinematics features, "
        f"{config.layers} x {config.width} units) that drives an SO-101 arm with half-second chunks of joint targets at 20 Hz.",
        "It sees joint states, their short history, a skill name and goal points; no image, and nothing of the simulator.",
        "",
        "## How it was made",
        "",
        f"    {made['command']}",
        "",
        f"- seed {config.seed}; {config.demos} demonstrations per skill from scripted experts in simulation, with injected "
        "noise and randomised dynamics",
        f"- {config.updates} gradient steps, then {config.rounds} rounds of {config.corrections} corrected episodes per "
        f"skill and {config.round_updates} steps each, in {made['train_seconds']} s (demonstrations that were already "
        "there not counted)",
        "- skills: " + ", ".join(config.skills),
        "",
        "## Measured success",
        "",
    ]
    if result:
        lines += [
            f"{result['episodes']} unseen episodes per skill, seed {result['seed']}, goals from the true scene, nominal",
            "dynamics, ended by the policy's own done output. Wilson 95 % intervals.",
            "",
            "| skill | success | 95 % interval |",
            "|---|---|---|",
        ]
        rows = {**result["by"], "all": result["success"]}
        lines += [
            f"| {name} | {row['rate']:.3f} | {row['low']:.3f} to {row['high']:.3f} |" for name, row in rows.items()
        ]
    else:
        lines += ["Not measured."]
    lines += [
        "",
        "## Limits",
        "",
        "It never sees the objects: where the goal point is wrong by a centimetre, grasps miss. Trained and measured in",
        "simulation only.",
        "",
    ]
    return "\n".join(lines)
