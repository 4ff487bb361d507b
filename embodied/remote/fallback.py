"""Several planners in a row: when one fails or is too slow, the next takes over and the user is told.

    remote --fails--> local --fails--> hold: a PlanError, and nothing moves

The arm stands still while planners are asked. One that could not be reached is left alone for a while, so that not every
step of an episode waits for it again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from embodied.plan import Plan
from embodied.planners import Planner
from embodied.remote.planner import Usage
from embodied.remote.reply import EndpointError
from embodied.remote.waiting import TooSlow, within
from hardware.camera_model import Frame
from hardware.errors import EmbodiedError, PlanError

log = logging.getLogger("embodied.planner")


class FallbackPlanner:
    """Asks its planners in order. ``notes`` keeps what the user was told; ``used`` is the planner of the last plan."""

    def __init__(
        self,
        planners: Sequence[Planner],
        *,
        wait_s: float | None = None,
        rest_s: float = 60.0,
        on_note: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``wait_s``: the longest that any planner but the last may take; None leaves it to the planners' own budgets, a
        second more for those that have one. ``rest_s``: so long a planner that failed is not asked again.
        ``on_note`` is told every note; without it they are logged as warnings, which Python prints to stderr.
        """
        if not planners:
            raise PlanError("a chain of planners needs at least one planner")
        self.planners = tuple(planners)
        self.name = " + ".join(planner.name for planner in self.planners)
        self.scripted = any(planner.scripted for planner in self.planners)
        self.notes: list[str] = []
        self.used: Planner | None = None
        self.on_note = on_note
        self._wait_s, self._rest_s, self._clock = wait_s, rest_s, clock
        self._rests_until: dict[int, float] = {}

    @property
    def usage(self) -> Usage:
        """What all planners that keep count have used together."""
        total = Usage()
        for planner in self.planners:
            used = getattr(planner, "usage", None)
            if isinstance(used, Usage):
                total = total + used
        return total

    @property
    def last_usage(self) -> Usage | None:
        """What the planner of the last plan used for it; None when it keeps no count."""
        used = getattr(self.used, "last_usage", None)
        return used if isinstance(used, Usage) else None

    def plan(self, instruction: str, frame: Frame) -> Plan:
        """The first plan that any planner makes. Raises ``PlanError`` when none does: then nothing must move."""
        failures: list[str] = []
        last = len(self.planners) - 1
        self.used = None
        for index, planner in enumerate(self.planners):
            until = self._rests_until.get(index, 0.0)
            if index < last and self._clock() < until:
                failures.append(f"{planner.name} failed less than {self._rest_s:.0f} s ago")
                continue
            resting = True
            try:
                plan = self._ask(planner, instruction, frame, None if index == last else self._patience(planner))
            except TooSlow:
                why = f"the planner {planner.name} did not answer within {self._patience(planner):.0f} s"
            except EmbodiedError as error:
                why = str(error).rstrip(".")
                resting = isinstance(error, EndpointError)  # a bad plan for these words says nothing about the next
            except Exception as error:  # whatever a planner breaks on, the arm holds and the next one is asked
                log.debug("planner %s", planner.name, exc_info=True)
                why = f"the planner {planner.name} broke down ({type(error).__name__})"
            else:
                if failures:
                    self._tell(f"{'; '.join(failures)}; the {planner.name} planner took over")
                self.used = planner
                self._rests_until.pop(index, None)
                return plan
            failures.append(why)
            if resting:
                self._rests_until[index] = self._clock() + self._rest_s
        sentence = f"no planner has a plan, so nothing moves: {'; '.join(failures)}"
        self._tell(sentence)
        raise PlanError(sentence)

    def _patience(self, planner: Planner) -> float:
        if self._wait_s is not None:
            return self._wait_s
        budget = getattr(getattr(planner, "endpoint", None), "budget_s", None)
        return float(budget) + 1.0 if isinstance(budget, int | float) else 30.0

    @staticmethod
    def _ask(planner: Planner, instruction: str, frame: Frame, seconds: float | None) -> Plan:
        if seconds is None:
            return planner.plan(instruction, frame)
        return within(seconds, lambda: planner.plan(instruction, frame))

    def _tell(self, note: str) -> None:
        self.notes.append(note)
        if self.on_note is not None:
            self.on_note(note)
        else:
            log.warning("%s", note)
