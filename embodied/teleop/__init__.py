"""Driving a robot by hand: ``Session`` joins an input device of ``hardware.teleop`` to a robot and a recording."""

from embodied.teleop.pace import Pacer
from embodied.teleop.session import Session
from embodied.teleop.status import Status, StatusLine

__all__ = ["Pacer", "Session", "Status", "StatusLine"]
