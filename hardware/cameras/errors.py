"""What can be wrong with a camera. Whoever asks for a picture gets one of these instead of a bad picture."""

from __future__ import annotations

from hardware.errors import RobotError


class CameraError(RobotError):
    """A camera cannot be opened, or its picture must not be used."""


class StaleFrameError(CameraError):
    """The newest picture is too old, or there is none yet."""


class FrozenCameraError(CameraError):
    """The camera repeats one picture."""


class BadPictureError(CameraError):
    """The pictures show nothing: black, overexposed, of one colour, or torn."""


class UnpluggedError(CameraError):
    """The device is gone or gives no pictures."""


class WrongCameraError(CameraError):
    """Another camera is where this one should be."""


class RecordingEndedError(CameraError):
    """A video or folder of pictures has no further picture."""


class CalibrationRefusedError(CameraError):
    """A calibration is too inaccurate to be used; the message says what to do better."""
