"""Opening a serial port so that only this process has it, and saying in plain words why that failed.

A port is a device such as ``/dev/ttyACM0`` or any pyserial URL: ``socket://host:port`` and ``rfc2217://host:port`` reach
an arm that hangs on another machine. Those have no lock here: the machine at the other end decides who gets the port.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import serial

from hardware.errors import RobotError

#: How long one read of the port may sleep: short, because deadlines are kept by the caller between two reads.
SLICE_S = 0.001
_WRITE_S = 0.2

#: What a port that has gone may raise. ``termios.error`` is no ``OSError``; pyserial lets it through.
PORT_ERRORS = (OSError, termios.error)
#: A write that took longer than it may. pyserial also says so when all bytes went out but this process then slept.
WRITE_TIMEOUT = serial.SerialTimeoutException


class BusError(RobotError):
    """The serial bus or a servo on it did not do what was asked."""


class PortError(BusError):
    """The port cannot be opened."""


class PortTaken(PortError):
    """Another process has the port."""


class PortLost(BusError):
    """The port went away while it was open."""


class SerialPort(Protocol):
    """The part of ``serial.SerialBase`` that is used here."""

    @property
    def in_waiting(self) -> int:
        """Bytes that can be read at once."""
        ...

    def read(self, size: int = 1) -> bytes:
        """Up to ``size`` bytes, after at most the time slice; fewer, and sooner, where that is what has come."""
        ...

    def write(self, data: bytes) -> int | None:
        """Send all of ``data``."""
        ...

    def close(self) -> None:
        """Release the port."""
        ...


class DevicePort:
    """A serial device that pyserial has opened and set up, read and written without it.

    pyserial waits until all bytes asked for are there or the slice is over, and asks the kernel three times per write. Here
    a read ends with whatever has come, so replies are taken apart while the next ones are still on the wire.
    """

    def __init__(self, port: serial.Serial) -> None:
        self._port = port
        self._fd: int = port.fileno()
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(self._fd, select.POLLIN)
        self._writable.register(self._fd, select.POLLOUT)

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""
        return self._fd

    @property
    def in_waiting(self) -> int:
        """Bytes that can be read at once."""
        count = fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4))
        return int.from_bytes(count, sys.byteorder)

    def read(self, size: int = 1) -> bytes:
        """What has come, up to ``size`` bytes; nothing after the time slice. Raises ``OSError`` when the device is gone."""
        if not self._readable.poll(1e3 * SLICE_S):
            return b""
        try:
            data = os.read(self._fd, size)
        except BlockingIOError:
            return b""
        if not data:  # readable, and nothing to read: that is how a device ends
            raise OSError(errno.EIO, "the device has gone")
        return data

    def write(self, data: bytes) -> int:
        """Send all of ``data``. Raises ``WRITE_TIMEOUT`` when the driver does not take it, ``OSError`` when it is gone."""
        left, end = data, 0.0
        while True:
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(self._fd, left) :]
            if not left:
                return len(data)
            end = end or time.monotonic() + _WRITE_S
            if time.monotonic() > end:
                raise WRITE_TIMEOUT("Write timeout")
            self._writable.poll(1e3 * SLICE_S)

    def close(self) -> None:
        """Release the device."""
        self._fd = -1  # a thread that still reads must not read what is opened next
        self._port.close()


@dataclass(frozen=True)
class Owner:
    """A process that holds a device open."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})" if self.command else f"process {self.pid}"


def open_port(url: str, baud: int) -> SerialPort:
    """Open a port for this process alone.

    Raises ``PortTaken`` naming the process that has it, ``PortError`` when it does not exist or may not be used.
    """
    try:
        port = serial.serial_for_url(url, baud, timeout=SLICE_S, do_not_open=True)
        if _is_device(url):
            port.exclusive = True
        port.open()
    except (*PORT_ERRORS, ValueError, NotImplementedError) as error:
        raise _explained(url, error) from error
    if _is_device(url):
        # flock, which pyserial uses, binds only those who ask for it; TIOCEXCL makes the kernel refuse everybody.
        with contextlib.suppress(*PORT_ERRORS):
            fcntl.ioctl(port.fileno(), termios.TIOCEXCL)
        with contextlib.suppress(*PORT_ERRORS, ValueError, NotImplementedError):  # FTDI: 1 ms instead of 16 ms
            port.set_low_latency_mode(True)
        return DevicePort(port)
    opened: SerialPort = port
    return opened


def close_port(port: SerialPort) -> None:
    """Release a port. Never raises: a port that has gone is closed too."""
    fileno = getattr(port, "fileno", None)
    with contextlib.suppress(*PORT_ERRORS, NotImplementedError, AttributeError, TypeError):
        if fileno is not None:
            fcntl.ioctl(fileno(), termios.TIOCNXCL)  # else the mark outlives us where someone else has the device open
    with contextlib.suppress(*PORT_ERRORS):
        port.close()


def owners(device: str) -> list[Owner]:
    """The processes that hold ``device`` open or locked, as far as this user may see them; Linux only, else empty."""
    target = os.path.realpath(device)
    pids = {pid for pid in _numbers(Path("/proc")) if _has_open(pid, target)} | set(_lock_holders(target))
    return [Owner(pid, _command(pid)) for pid in sorted(pids)]


def _is_device(url: str) -> bool:
    return "://" not in url


def _explained(url: str, error: Exception) -> PortError:
    """Why the port did not open, and what to do next."""
    if not _is_device(url):
        return PortError(f"cannot reach {url}: {error}; is the machine on, and does it share the port there?")
    if not os.path.exists(url):
        return PortError(f"there is no port {url}; {_present()}. Is the cable in and the arm's power on?")
    if _errno(error) in (errno.EACCES, errno.EPERM):
        return PortError(
            f"you may not use {url}: join its group (sudo usermod -aG dialout $USER), log out and in, and try again"
        )
    held = [owner for owner in owners(url) if owner.pid != os.getpid()]
    taken = held or _errno(error) in (errno.EAGAIN, errno.EBUSY) or "exclusively lock" in str(error)
    if taken:
        who = " and ".join(map(str, held)) or _own_claim(url)
        return PortTaken(f"{url} is in use by {who}; stop that first, then try again")
    return PortError(f"cannot open {url}: {error}; is it a serial port?")


def _own_claim(url: str) -> str:
    ours = any(owner.pid == os.getpid() for owner in owners(url))
    return "this very program, which has opened it already" if ours else "a process of another user"


def _present() -> str:
    from serial.tools import list_ports

    names = ", ".join(sorted(port.device for port in list_ports.comports()))
    return f"ports here: {names}" if names else "no serial port is connected"


def _errno(error: BaseException | None) -> int | None:
    """The number in an error or in what caused it; pyserial wraps the original."""
    while error is not None:
        number = getattr(error, "errno", None)
        if isinstance(number, int):
            return number
        error = error.__cause__ or error.__context__
    return None


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]
    except OSError:
        return []


def _has_open(pid: int, target: str) -> bool:
    folder = f"/proc/{pid}/fd"
    for fd in _numbers(Path(folder)):
        try:
            if os.readlink(f"{folder}/{fd}") == target:
                return True
        except OSError:
            continue
    return False


def _lock_holders(target: str) -> list[int]:
    """Processes with a lock on the device: /proc/locks shows them even when their open files are hidden from us."""
    try:
        inode = os.stat(target).st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    fields = [line.split() for line in lines]  # 1: FLOCK ADVISORY WRITE 4711 00:17:5 0 EOF
    return [
        int(f[4]) for f in fields if len(f) > 5 and f[5].split(":")[-1] == str(inode) and _same_device(f[5], target)
    ]


def _same_device(lock: str, target: str) -> bool:
    major, minor, _ = lock.split(":")
    device = os.stat(target).st_dev
    return (int(major, 16), int(minor, 16)) == (os.major(device), os.minor(device))


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    # Arguments further on may be private; a script given with -c has lines, and this becomes part of a sentence.
    return " ".join(b" ".join(words[:3]).decode(errors="replace").split())[:120]
