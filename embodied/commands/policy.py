"""``embodied policy``: commands about low-level policies. ``serve`` lends one to other programs over a websocket."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from embodied.commands.output import print_json, stoppable
from hardware.errors import EmbodiedError

DONE = 0


@dataclass(frozen=True)
class Policy:
    """Low-level policies. serve: lend one to other programs, in openpi's message format, until Ctrl-C; elsewhere
    --policy ws://127.0.0.1:8000 uses it."""

    what: Positional[Literal["serve"]]
    """serve."""
    policy: str = ""
    """As for run: folder of a trained policy, scripted, or lerobot:FOLDER; the shipped weights when left out."""
    port: int = 8000
    """TCP port; 0: a free one."""
    host: str = "127.0.0.1"
    """Address to listen at. Any but this machine's own needs --expose and --token-file."""
    expose: bool = False
    """Let other machines connect. Nothing is encrypted: an SSH tunnel to a server on 127.0.0.1 is safer."""
    token_file: Path | None = None
    """Write a new random token here (readable by you only); clients must have it in EMBODIED_POLICY_TOKEN."""
    seconds: float = 0.0
    """Stop after this time; 0: never."""
    json: bool = False
    """Print the address as one JSON object."""


def run(command: Policy) -> int:
    """Carry out the command; returns the exit status. Raises ``EmbodiedError``."""
    from embodied.policies import make_policy
    from policies.serving.server import PolicyServer, is_loopback

    if not 0 <= command.port <= 65535:
        raise EmbodiedError(f"--port must lie between 0 and 65535, not {command.port}")
    if command.seconds < 0.0:
        raise EmbodiedError(f"--seconds must be zero or more, not {command.seconds}")
    if not is_loopback(command.host) and not (command.expose and command.token_file):
        raise EmbodiedError(
            f"{command.host} can be reached from other machines; say --expose and --token-file FILE if that is meant, "
            "or leave --host out"
        )
    name = make_policy(command.policy or None).name  # whatever is wrong with it is said now
    token = None if command.token_file is None else _new_token(command.token_file)
    if not is_loopback(command.host):
        print(f"warning: {command.host} is open to other machines, and nothing is encrypted", file=sys.stderr)
    server = PolicyServer(
        lambda: make_policy(command.policy or None), host=command.host, port=command.port, token=token
    )
    with stoppable() as wait, server:
        if command.json:
            print_json(
                {"url": server.url, "policy": name, "token_file": command.token_file and str(command.token_file)}
            )
        else:
            print(f"{name} on {server.url}; Ctrl-C stops it", flush=True)
        wait(command.seconds)
    return DONE


def _new_token(path: Path) -> str:
    """256 random bits in a file that only its owner may read. Raises ``EmbodiedError``."""
    token = secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # an old file might be open to others
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
    except OSError as error:
        raise EmbodiedError(f"cannot write {path}: {error.strerror or error}; choose another --token-file") from error
    return token
