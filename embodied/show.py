"""What the command line shows: the plan as it is made, progress per step, tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from embodied.executor import Event, StepRecord, describe
from embodied.plan import Ask, Plan, Refuse

if TYPE_CHECKING:
    from embodied.episode import Episode
    from embodied.grounding import GroundedCall
    from embodied.score import Asked, Report
    from embodied.statistics import Rate
    from sim.scene import Scene

_COLOR = {"succeeded": "green", "failed": "red", "refused": "yellow", "asked": "blue", "interrupted": "magenta"}


class Narrator:
    """Tells an episode while it happens. A context manager: it owns the progress line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("  {task.description}"), BarColumn(24), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None

    def __enter__(self) -> Narrator:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def tell(self, event: Event) -> None:
        """One event of the executor or the agent."""
        data = event.data
        if event.kind == "look":
            self._console.print("[dim]looked at the table[/dim]")
        elif event.kind == "note":
            self._console.print(f"[yellow]note[/yellow]: {escape(data['text'])}")
        elif event.kind == "plan":
            self._console.print(plan_table(data["plan"], data["seconds"]))
        elif event.kind == "left":
            words = ", ".join(describe(call) for call in data["plan"].calls)
            self._console.print(f"[yellow]still to be done[/yellow]: {escape(words)}")
        elif event.kind == "step":
            self._drop()
            words = f"{data['index'] + 1}/{data['total']} {escape(describe(data['call']))}"
            self._task = self._progress.add_task(words, total=1.0, note="")
        elif event.kind == "progress" and self._task is not None:
            note = f"{data['steps']} steps"
            self._progress.update(self._task, completed=data["done"], note=note)
        elif event.kind == "retry":
            self._console.print(f"  [yellow]again[/yellow]: {escape(data['why'])}")
        elif event.kind == "step_end":
            self._drop()
            self._console.print(_step_line(data["record"], data["total"]))

    def _drop(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def close(self, episode: Episode) -> None:
        """The outcome, and where to find everything."""
        color = _COLOR[episode.outcome]
        self._console.print(f"[bold {color}]{episode.outcome}[/bold {color}]: {escape(episode.sentence)}")
        if episode.judgement is not None:
            self._console.print(f"[dim]judged by the {episode.judgement.yardstick}, on the true scene[/dim]")
        if episode.scripted:
            self._console.print(f"[yellow]scripted: {', '.join(episode.scripted)}[/yellow]")
        if episode.folder is not None:
            self._console.print(f"report: {escape(str(episode.folder / 'report.html'))}")


def _step_line(record: StepRecord, total: int) -> str:
    done = record.status == "done"
    mark = "[green]done[/green]" if done else f"[red]{record.status}[/red]"
    tries = f", attempt {record.attempts}" if record.attempts > 1 else ""
    why = f": {escape(record.why)}" if record.why else ""
    words = f"{record.index + 1}/{total} {escape(describe(record.call))}"
    return f"  {words} {mark} [dim]({record.steps} steps{tries})[/dim]{why}"


def plan_table(plan: Plan, seconds: float | None = None, grounded: Sequence[GroundedCall] = ()) -> Table:
    """The plan's calls with their points, and with their targets on the table where those are known."""
    took = "" if seconds is None else f" ({1000 * seconds:.0f} ms)"
    table = Table(title=f"plan{took}", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("", "call", "point in the picture", *(("target x, y, cm",) if grounded else ())):
        table.add_column(name, header_style="dim")
    for index, call in enumerate(plan.calls):
        point = getattr(call, "point", None)
        cells = [
            str(index + 1),
            escape(_short(call) if isinstance(call, Ask | Refuse) else describe(call)),
            "" if point is None else f"{point[0]:.3f}, {point[1]:.3f}",
        ]
        if grounded:
            goal = grounded[index].goal
            cells.append("" if goal is None else f"{100 * goal.to[0]:.1f}, {100 * goal.to[1]:.1f}")
        table.add_row(*cells)
    return table


def _short(speech: Ask | Refuse) -> str:
    return f"{speech.skill} {getattr(speech, 'reason', '')}".strip() + (f": {speech.object}" if speech.object else "")


def scene_table(scene: Scene, name: str) -> Table:
    """The objects of a scene."""
    from sim.scene import distance_from_pan_axis

    table = Table(
        title=f"scene: {escape(name)}", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0)
    )
    for column in ("name", "kind", "colour", "size, cm", "x, y, cm", "from the arm's axis, cm"):
        table.add_column(column, header_style="dim")
    for o in scene.objects:
        x, y = o.position
        table.add_row(
            escape(o.name), o.kind, o.color, f"{100 * o.size_m:.1f}", f"{100 * x:.1f}, {100 * y:.1f}",
            f"{100 * distance_from_pan_axis(o.position):.1f}",
        )  # fmt: skip
    return table


def report_table(report: Report) -> Table:
    """The figures of a suite."""
    subject = f"{report.subject}: " if report.subject else ""
    title = f"{subject}{report.suite}, {report.episodes} episodes, seed {report.seed}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("", "success", "95 % interval", "episodes"):
        table.add_column(name, header_style="dim")
    for name, rate in [*sorted(report.by.items()), ("overall", report.success)]:
        table.add_row(name, *_rate_cells(rate), style="bold" if name == "overall" else "")
    for name, value in report.metrics.items():
        if (share := report.rates.get(name)) is not None:
            table.add_row(f"[dim]{name}[/dim]", *_rate_cells(share))
        elif math.isfinite(value):
            table.add_row(f"[dim]{name}[/dim]", f"{value:.3g}", "", "")
    return table


def _rate_cells(rate: Rate) -> tuple[str, str, str]:
    low, high = rate.interval
    return f"{rate.rate:.1%}", f"{low:.1%} to {high:.1%}", str(rate.episodes)


class Counter:
    """Progress of a suite: how many are done, how many succeeded, and what went wrong."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console,
            transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("episodes", total=total)
        self._good = 0

    def __enter__(self) -> Counter:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def tell(self, question: Asked, success: bool, sentence: str) -> None:
        """After one episode; failures are printed with what is needed to repeat them."""
        self._good += success
        self._progress.update(self._task, advance=1, description=f"{self._good} succeeded")
        if not success:
            words = escape(f"#{question.index} {question.kind} {question.instruction!r}: {sentence}")
            self._console.print(f"[dim]{words}[/dim]")
