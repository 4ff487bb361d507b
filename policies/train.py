"""Trains a policy from nothing: demonstrations, imitation, corrections on its own mistakes, evaluation, card.

    1  collect   ``demos`` successful expert demonstrations per skill, with injected noise      <data>/demos/*.npz
    2  imitate   ``updates`` steps of behaviour cloning; an average of the weights (EMA) is kept
    3  correct   ``rounds`` times: the policy acts, the expert takes over or says what it would do <data>/round1/*.npz
                 and training goes on with everything collected so far
    4  measure   on episodes never seen in training; the figures go into the model card

Every stage can be interrupted; the same command with ``--resume`` goes on where it stopped, and gives the same weights
as an uninterrupted run on the same machine. The kinds of policy differ only in what ``kinds.py`` says of them.

On several cores or GPUs, each process with its own batches and the gradients averaged:

    torchrun --nproc-per-node 2 -m embodied train policy --policy act --workers 2
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from hardware.errors import CheckpointError
from policies.curves import CURVE_EVERY, Curves
from policies.dagger import run_rounds
from policies.evaluation import SuiteName
from policies.images import VIEWS, View
from policies.kinds import KindName, kind
from policies.randomization import VISIBLE, Level, Randomization, level
from policies.skills import SKILLS, Skill
from policies.team import Team, mixed

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from policies.data import Demo, DemoSet

Network = Any  # a torch module with ``config`` and ``fit_statistics``, see policies/kinds.py
#: Stands for "as the recipe of that kind of policy has it".
RECIPE = -1
#: What ``TrainConfig.mover`` says when there is none yet.
NEW_MOVER = Path("new")


@dataclass(frozen=True)
class Recipe:
    """What a kind of policy needs to become good, within two hours of two cores."""

    demos: int
    rounds: int
    corrections: int
    updates: int
    round_updates: int
    batch: int
    randomization: Level


RECIPES: dict[KindName, Recipe] = {
    "point": Recipe(300, 2, 60, 10_000, 5000, 512, "light"),
    # Per skill 400 scenes, each looked at four times, then episodes in which it corrects itself.
    "refiner": Recipe(400, 2, 40, 3000, 2000, 96, "full"),
    # Measured on one core: 0.4 s a demonstration with pictures, 240 rows a second in training.
    "act": Recipe(250, 2, 60, 8000, 4000, 64, "full"),
    "flow": Recipe(250, 2, 60, 8000, 4000, 64, "full"),
}


@dataclass(frozen=True)
class TrainConfig:
    """Train the low-level policy: collect demonstrations, imitate, correct, measure, write a model card."""

    out: Path = Path("runs/policy")
    """Folder for the weights and the model card."""
    data: Path = Path("data/policy")
    """Folder for demonstrations; those already there are used again."""
    policy: KindName = "point"
    """point: joints and goal points only, small and fast. refiner: a point policy and an eye that corrects wrong points.
    act, flow: pictures and motion in one network."""
    skills: tuple[Skill, ...] = SKILLS
    """Which skills to learn."""
    demos: int = RECIPE
    """Demonstrations per skill (refiner: scenes). This and the next five: -1 is the usual number for the policy chosen."""
    rounds: int = RECIPE
    """Rounds of correction (DAgger) after imitation."""
    corrections: int = RECIPE
    """Episodes per skill and round of correction."""
    updates: int = RECIPE
    """Gradient steps of imitation; 0 with --start."""
    round_updates: int = RECIPE
    """Gradient steps after each round of correction."""
    batch: int = RECIPE
    """Rows per gradient step and process."""
    randomization: Level | Literal[""] = ""
    """light: nearly the nominal arm. full: everything in policies/randomization.py. Empty: the policy's usual."""
    start: Path | None = None
    """Checkpoint folder of the same kind to start from, instead of from nothing."""
    mover: Path | None = None
    """refiner: checkpoint folder of the point policy that moves; without it the shipped one. new: one is trained first, from
    nothing, into OUT/mover."""
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
    """Hidden units per layer of the network (point)."""
    layers: int = 3
    """Hidden layers of the network (point)."""
    backbone: str = "small"
    """What looks at pictures (refiner, act, flow): small, residual, or one registered in policies/backbones.py."""
    views: Annotated[tuple[View, ...], tyro.conf.Suppress] = VIEWS
    """The pictures (refiner, act, flow)."""
    evaluate: int = 100
    """Episodes per skill of the evaluation at the end; 0 leaves it out."""
    suites: tuple[SuiteName, ...] = ("skills",)
    """What is measured at the end, see `embodied eval policy`; the first one is what the training returns."""
    workers: int = 1
    """Processes that collect demonstrations and evaluate."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where gradients are computed; auto: a GPU if there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: mixed precision. auto: where the hardware multiplies bf16; on other CPUs it is three times slower."""
    seed: int = 0
    """Seed of everything random."""
    save_every: int = 1000
    """Gradient steps between two saved training states."""
    resume: bool = False
    """Go on with an interrupted training in ``out``."""

    def __post_init__(self) -> None:
        recipe = RECIPES[self.policy]
        for name in ("demos", "rounds", "corrections", "updates", "round_updates", "batch"):
            if getattr(self, name) == RECIPE:
                object.__setattr__(self, name, getattr(recipe, name))
        object.__setattr__(self, "randomization", self.randomization or recipe.randomization)
        unknown = [skill for skill in self.skills if skill not in SKILLS]
        if unknown or not self.skills:
            raise ValueError(f"unknown skills: {', '.join(unknown) or '(none given)'}; there are: {', '.join(SKILLS)}")
        for name in ("demos", "round_updates", "batch", "width", "layers", "workers", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.updates < (0 if self.start is not None else 1):
            raise ValueError(f"updates must be at least 1 (0 with a start), not {self.updates}")
        if self.rounds < 0 or (self.rounds > 0 and self.corrections < 1):
            raise ValueError(
                f"rounds must not be negative and corrections at least 1, not {self.rounds} and {self.corrections}"
            )
        if not self.suites:
            raise ValueError("suites must name at least one suite; --evaluate 0 leaves the evaluation out")
        if not 0 <= self.seed <= 9999:
            raise ValueError(f"seed must lie in 0..9999 so that evaluation seeds stay unseen, not {self.seed}")

    @property
    def randomized(self) -> Randomization:
        """What varies in training."""
        return level(self.randomization)


@dataclass
class TrainState:
    """Everything that changes during training, so that it can be put aside and taken up again."""

    network: Network
    average: Network  # exponential moving average of the weights
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
    """Run every stage and write ``config.out``. Returns the first suite's evaluation (empty without one).

    Raises ``CheckpointError`` when ``resume`` finds nothing usable or the output folder cannot be written.
    """
    import torch
    from rich.console import Console

    if config.policy == "refiner" and config.mover == NEW_MOVER:
        config = _with_new_mover(config, console)
    with Team.join(config) as team:
        say = console or Console(stderr=True)
        if not team.leads:
            say = Console(quiet=True)
        torch.manual_seed(config.seed)
        _make_folders(config.out)
        state = new_state(config, team.device)
        if config.resume:
            load_state(config.out / "state", state)
            say.print(f"resumed at round {state.round}, update {state.update}")
        learner = _Learner(config, state, team, say)
        run_rounds(learner, learner.correct, config.rounds)
        say.print(f"trained in {state.seconds:.0f} s on {len(learner.demos)} demonstrations")
        result = finish(config, state, console=say) if team.leads else {}
        team.wait()
        return result


def _with_new_mover(config: TrainConfig, console: Console | None) -> TrainConfig:
    """The same with a point policy that has been trained by its own recipe; one that is ready already stays."""
    from policies.checkpoint import read_config

    folder = config.out / "mover"
    ready = (folder / "config.json").is_file() and bool(read_config(folder)["made"].get("finished"))
    if not (config.resume and ready):
        own = TrainConfig(
            out=folder, data=config.data, skills=config.skills, evaluate=0, workers=config.workers, device=config.device,
            precision=config.precision, seed=config.seed, save_every=config.save_every,
            resume=config.resume and _begun(folder),
        )  # fmt: skip
        train(own, console=console)
    return replace(config, mover=folder, resume=config.resume and _begun(config.out))


def _begun(out: Path) -> bool:
    return (out / "state" / "state.safetensors").is_file()


def _make_folders(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "state").mkdir(exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write to {out}: {error.strerror}; choose another folder with --out") from error


@dataclass
class _Learner:
    """The trainer as DAgger's loop wants it; what stands for the policy is the checkpoint folder."""

    config: TrainConfig
    state: TrainState
    team: Team
    console: Console
    demos: list[Demo] = field(default_factory=list)

    def learn(self, corrections: Sequence[Demo], round_: int) -> Path:
        """Go on learning with what was corrected; what an earlier run has done already is skipped."""
        config, state = self.config, self.state
        self.demos += corrections if round_ > 0 else self._collect(0, config.demos, None)
        if round_ < state.round:
            return config.out
        if round_ > state.round:
            state.round, state.update = round_, 0
        seeing = bool(kind(config.policy).views(config))
        fit(config, state, self._set(seeing), console=self.console, team=self.team)
        if self.team.leads:
            save_state(config.out / "state", state)
        return config.out

    def _set(self, seeing: bool) -> DemoSet:
        from policies.data import DemoSet

        return DemoSet(self.demos, int(self.state.network.config.horizon), seeing=seeing)

    def correct(self, folder: Path, round_: int) -> list[Demo]:
        """What the expert says to the episodes of the policy at the end of the last round."""
        if self.state.round < round_ and self.team.leads:
            save_weights(self.config, self.state)
        return self._collect(round_, self.config.corrections, folder)

    def _collect(self, round_: int, episodes: int, folder: Path | None) -> list[Demo]:
        from policies.collect import collect_shards

        config, of = self.config, kind(self.config.policy)
        # Who only looks learns nothing from a skill that has nothing to see.
        skills = [skill for skill in config.skills if of.moves or skill in VISIBLE]

        def collected() -> list[Demo]:
            return collect_shards(
                config.data, skills, episodes, seed=config.seed, round_=round_, policy_folder=folder,
                workers=config.workers, console=self.console, randomization=level_name(config),
                views=of.views(config), kind=config.policy, still=round_ == 0 and not of.moves,
            )  # fmt: skip

        # One process collects, the others find everything there.
        demos = collected() if self.team.leads else []
        self.team.wait()
        return demos if self.team.leads else collected()


def level_name(config: TrainConfig) -> Level:
    """The name of the level of randomisation, which is settled by now."""
    return "full" if config.randomization == "full" else "light"


def new_state(config: TrainConfig, device: str = "cpu") -> TrainState:
    """A fresh network, or the one to start from, and an optimiser."""
    import copy

    import torch

    from policies.checkpoint import load_network, read_config

    of = kind(config.policy)
    if config.start is None:
        network = of.new_network(config)
    else:
        if read_config(config.start)["kind"] != config.policy:
            raise CheckpointError(f"{config.start} holds no {config.policy} policy; choose another with --start")
        network = load_network(config.start)
    network = network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    return TrainState(network, copy.deepcopy(network).requires_grad_(False), optimizer)


def fit(config: TrainConfig, state: TrainState, data: DemoSet, *, console: Console, team: Team | None = None) -> None:
    """Take the gradient steps that are left of the current round."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    team = Team() if team is None else team
    of = kind(config.policy)
    total = config.updates if state.round == 0 else config.round_updates
    if state.round == 0 and state.update == 0 and config.start is None:
        sample = data.draw(np.random.default_rng([config.seed, 1]), min(20_000, 4 * len(data)))
        raw, chunk = torch.from_numpy(data.raw[sample]), torch.from_numpy(data.chunk[sample])
        state.network.fit_statistics(raw.to(team.device), chunk.to(team.device))
        state.average.load_state_dict(state.network.state_dict())
    objective = team.objective(state.network, of.loss)
    # Nothing to gain for networks without pictures, and kinematics in half precision would be off by millimetres.
    half = bool(of.views(config)) and mixed(config.precision, team.device)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress, Curves.to(config.out, team.leads) as curves:
        bar = progress.add_task(f"training, round {state.round}", total=total, completed=state.update)
        while state.update < total:
            # Drawn from the step number, so that a resumed run sees the same batches.
            rng = np.random.default_rng([config.seed, 2, state.round, state.update, *team.apart])
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(config, state.update, total)
            batch = {key: value.to(team.device) for key, value in of.batch(config, data, rng).items()}
            with torch.autocast(team.device, dtype=torch.bfloat16, enabled=half):
                losses = objective(batch)
            state.optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
            state.optimizer.step()
            young = state.round == 0 and config.start is None
            _average(state, min(config.ema, (1.0 + state.update) / (10.0 + state.update)) if young else config.ema)
            state.update += 1
            if state.update % config.save_every == 0 or state.update == total:
                _note(config, state, losses, total, console, team)
            if state.update % CURVE_EVERY == 0:
                done = state.update + (
                    0 if state.round == 0 else config.updates + (state.round - 1) * config.round_updates
                )
                curves.add({key: float(value.detach()) for key, value in losses.items()}, done)
            progress.update(bar, completed=state.update)


def _note(
    config: TrainConfig, state: TrainState, losses: dict[str, torch.Tensor], total: int, console: Console, team: Team
) -> None:
    """Save, and say how it goes."""
    row = {key: float(value.detach()) for key, value in losses.items()}
    state.log.append({"round": state.round, "update": state.update, **row})
    if team.leads:
        save_state(config.out / "state", state)
    numbers = "  ".join(f"{key} {value:.4f}" for key, value in row.items())
    console.print(f"round {state.round}  update {state.update}/{total}  {numbers}")


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
    from policies.checkpoint import save

    of = kind(config.policy)
    card = card or f"# {of.title}, still in training\n"
    save(config.out, of.name, state.average, card=card, made=made or {"finished": False})


def finish(config: TrainConfig, state: TrainState, *, console: Console) -> dict[str, Any]:
    """Save, evaluate, and save again with the measured figures in the card."""
    from policies.evaluation import EvalConfig, evaluate

    kept_out = ("out", "data", "resume", "start", "mover", "views")  # folders of the machine that trained it
    made: dict[str, Any] = {
        "command": command_line(),
        "config": {key: value for key, value in asdict(config).items() if key not in kept_out},
        "parameters": sum(p.numel() for p in state.network.parameters()),
        "train_seconds": round(state.seconds),
        "losses": state.log[-1:],
        "finished": True,
    }
    save_weights(config, state, card=model_card(config, made, {}), made=made)
    if config.evaluate < 1:
        return {}
    results = []
    for suite in config.suites:
        options = EvalConfig(
            suite=suite, weights=config.out, episodes=config.evaluate, seed=config.seed, skills=config.skills,
            workers=config.workers,
        )  # fmt: skip
        results.append(evaluate(options, console=console))
        made["evaluation"], made["evaluations"] = results[0], results
        save_weights(config, state, card=model_card(config, made, *results), made=made)
    console.print(f"wrote {config.out}")
    return results[0]


def command_line() -> str:
    """The command that is running, for the model card; free of folders of this machine."""
    arguments: Sequence[str] = sys.argv[1:]
    program = Path(sys.argv[0])
    # python -m embodied: the package's name is what people type.
    return shlex.join([program.parent.name if program.name == "__main__.py" else program.name, *arguments])


def model_card(config: TrainConfig, made: dict[str, Any], *results: dict[str, Any]) -> str:
    """The model card (Markdown): what it is, what made it, what it can do."""
    of = kind(config.policy)
    size = f"{made['parameters']:,} parameters" if "parameters" in made else "a small network"
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: embodied",
        "pipeline_tag: robotics",
        "---",
        "",
        f"# {of.title}",
        "",
        f"It ({size}) drives an SO-101 arm with half-second chunks of joint targets at 20 Hz.",
        of.sees,
        "",
        "## How it was made",
        "",
        f"    {made['command']}",
        "",
        f"- seed {config.seed}; {config.demos} {'demonstrations' if of.moves else 'still scenes'} per skill in simulation; "
        f"randomisation `{config.randomization}` of policies/randomization.py",
        f"- {config.updates} gradient steps, then {config.rounds} rounds of {config.corrections} corrected episodes per "
        f"skill and {config.round_updates} steps each, in {made['train_seconds']} s (demonstrations that were already "
        "there not counted)",
        "- skills: " + ", ".join(config.skills),
        "",
        "## Measured success",
        "",
    ]
    for result in filter(None, results):
        lines += [
            f"Suite `{result['suite']}`, {result['episodes']} unseen episodes per skill, seed {result['seed']}, goals from",
            "the true scene plus the suite's errors, ended by the policy's own done output. Wilson 95 % intervals.",
            "",
            "| skill | success | 95 % interval |",
            "|---|---|---|",
        ]
        rows = {**result["by"], "all": result["success"]}
        lines += [
            f"| {name} | {row['rate']:.3f} | {row['low']:.3f} to {row['high']:.3f} |" for name, row in rows.items()
        ]
        lines.append("")
    if not any(results):
        lines += ["Not measured.", ""]
    lines += ["## Limits", "", f"{of.limits} Trained and measured in simulation only.", ""]
    return "\n".join(lines)
