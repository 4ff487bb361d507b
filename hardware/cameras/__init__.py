"""Cameras through OpenCV: devices and recordings with checked, rectified frames; calibration with a ChArUco board."""

from hardware.cameras.board_pose import BoardPose, PoseLimits, camera_pose, place_board, touched_corners
from hardware.cameras.camera import SteppedCamera, StreamCamera, Viewpoint, open_camera, open_cameras
from hardware.cameras.charuco import Board, find_board, save_board
from hardware.cameras.devices import Device, find_devices
from hardware.cameras.errors import (
    BadPictureError,
    CalibrationRefusedError,
    CameraError,
    FrozenCameraError,
    RecordingEndedError,
    StaleFrameError,
    UnpluggedError,
    WrongCameraError,
)
from hardware.cameras.hand_eye import HandEye, HandEyeLimits, hand_eye
from hardware.cameras.lens import Lens
from hardware.cameras.lens_calibration import LensCalibration, LensLimits, calibrate_lens
from hardware.cameras.views import ViewSet, load_views, save_views
from hardware.cameras.watch import CameraHealth

__all__ = [
    "BadPictureError",
    "Board",
    "BoardPose",
    "CalibrationRefusedError",
    "CameraError",
    "CameraHealth",
    "Device",
    "FrozenCameraError",
    "HandEye",
    "HandEyeLimits",
    "Lens",
    "LensCalibration",
    "LensLimits",
    "PoseLimits",
    "RecordingEndedError",
    "StaleFrameError",
    "SteppedCamera",
    "StreamCamera",
    "UnpluggedError",
    "ViewSet",
    "Viewpoint",
    "WrongCameraError",
    "calibrate_lens",
    "camera_pose",
    "find_board",
    "find_devices",
    "hand_eye",
    "load_views",
    "open_camera",
    "open_cameras",
    "place_board",
    "save_board",
    "save_views",
    "touched_corners",
]
