"""The safety core: one pure function between every wanted joint vector and the arm, simulated or real.

No I/O, no clock. ``step`` returns what may be sent and why, in three bands: *pass*, *clamp* (made smaller), *reject*
(the last sent vector is repeated: HOLD). Stages, in order::

    shape -> finite -> age -> latch -> reject band                                        may reject
    position -> following error -> velocity -> table -> tip speed -> links                only shorten the way to the target
    final check                                                                           may only reject

The shortening stages keep each joint between what was sent last and the target, so a bound that both ends meet survives
all later stages: hence following error before velocity. An arm that begins outside its limits may only come back, slowly;
one that begins below the table margin may not go further down, one that begins folded up only unfolds slowly, by a way that
whoever moves it must find (``hardware.unfolding``). Faults latch:
nothing moves until ``reset``, a deliberate act. What the servos themselves report is judged by ``hardware.supervisor``.

What this does not protect against: people and things within reach, and what the gripper holds; collisions of parts that
the capsules of ``hardware.safety.collision`` do not cover; a table that is not at height 0; a wrong calibration; servos
that do not obey; force, beyond what the following error allows. It is no certified safety function, and none may be
built on it: the emergency stop of an arm is a switch in its power supply, within reach of whoever works with it.
"""

from hardware.safety.core import reset, step
from hardware.safety.limits import Applied, Limits, Reason, SafetyState

__all__ = ["Applied", "Limits", "Reason", "SafetyState", "reset", "step"]
