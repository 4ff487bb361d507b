"""Counts of servos and radians of joints: there and back, within the calibrated range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.emulator.chains import nominal
from hardware.joint_map import JointMap
from hardware.rig import Calibration, load_rig


def _calibrations(draw: st.DrawFn) -> dict[str, Calibration]:
    found = {}
    for name in load_rig("so101").joints:
        low = draw(st.integers(200, 1600))
        high = draw(st.integers(2400, 3900))
        zero = None if name == "gripper" or draw(st.booleans()) else float(draw(st.integers(1900, 2200)))
        found[name] = Calibration(min=low, max=high, zero=zero, direction=draw(st.sampled_from([1, -1])))
    return found


@settings(max_examples=25)
@given(st.composite(_calibrations)(), st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_counts_and_radians_agree(calibrations: dict[str, Calibration], shares: list[float]) -> None:
    rig = load_rig("so101").with_calibration(calibrations)
    mapped = JointMap(rig)
    q = mapped.spec.lower + np.array(shares) * (mapped.spec.upper - mapped.spec.lower)
    counts = mapped.counts(q)
    for joint in rig.joints.values():
        assert joint.calibration is not None
        assert joint.calibration.min <= counts[joint.id] <= joint.calibration.max
    assert mapped.q(counts) == pytest.approx(q, abs=1.01 * np.pi / 4096)
    assert mapped.counts(mapped.q(counts)) == counts


@settings(max_examples=25)
@given(st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=6))
def test_counts_never_leave_the_calibrated_range(q: list[float]) -> None:
    rig = nominal(load_rig("koch"))
    for joint in rig.joints.values():
        assert joint.calibration is not None
        assert joint.calibration.min <= JointMap(rig).counts(np.array(q))[joint.id] <= joint.calibration.max


def test_the_gripper_opens_from_zero_to_one() -> None:
    for direction in (1, -1):
        rig = nominal(load_rig("so101")).with_calibration(
            {"gripper": Calibration(min=1000, max=2000, direction=direction)}
        )
        mapped = JointMap(rig)
        closed, opened = (1000, 2000)[::direction]
        assert mapped.q({**mapped.counts(np.zeros(6)), 6: closed})[5] == 0.0
        assert mapped.q({**mapped.counts(np.zeros(6)), 6: opened})[5] == 1.0


def test_a_calibration_that_leaves_no_way_is_refused() -> None:
    rig = nominal(load_rig("so101")).with_calibration({"elbow_flex": Calibration(min=3900, max=4000, zero=3950)})
    assert JointMap(rig).spec.upper[2] - JointMap(rig).spec.lower[2] == pytest.approx(100 * 2 * np.pi / 4096)
