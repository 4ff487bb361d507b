"""What a person's hand moves a robot with: a leader arm, a gamepad, the keyboard of a terminal.

``Device`` is the seam. A device says either which pose the hand shows (``Clutch`` turns that into commands) or how fast
the tool and the joints shall move (``jog`` does). Nothing here moves an arm: commands go through the robot's safety core.
"""

from hardware.teleop.clutch import Clutch
from hardware.teleop.device import Device, DeviceLost, Key, Rate, Reading
from hardware.teleop.gamepad import Gamepad, open_gamepad
from hardware.teleop.jog import JogSpeeds, jog
from hardware.teleop.keyboard import Keyboard
from hardware.teleop.lead import Lead
from hardware.teleop.leader import EmulatedLeader, LeaderArm

__all__ = [
    "Clutch", "Device", "DeviceLost", "EmulatedLeader", "Gamepad", "JogSpeeds", "Key", "Keyboard", "Lead", "LeaderArm", "Rate",
    "Reading", "jog", "open_gamepad",
]  # fmt: skip
