"""The settings file of remote planners: TOML, the user's own, and readable by nobody else, because it can hold a key."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from embodied.planner.plan_text import Coordinates
from hardware.errors import CheckpointError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MOST_FILE_BYTES = 64 * 1024
#: How a model writes a point, by the names that local planners use too.
Points = Coordinates
#: How a server is held to the plan language: by a JSON schema, to JSON of any kind, by a tool, or by words alone.
Structured = Literal["schema", "json_object", "tools", "plain"]
#: ``full`` explains the plan language; ``bare`` sends words and picture only, to a model trained on it.
Prompting = Literal["full", "bare"]


class Settings(BaseModel):
    """The fields of the settings file; each may be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    preset: str | None = None
    url: str | None = None
    model: str | None = None
    key: SecretStr | None = None
    points: Points | None = None
    structured: Structured | None = None
    prompt: Prompting | None = None
    send_pictures_to: str | None = None
    budget_s: Annotated[float, Field(gt=0, le=300)] | None = None
    retries: Annotated[int, Field(ge=0, le=5)] | None = None
    max_tokens: Annotated[int, Field(ge=64, le=16384)] | None = None
    price_prompt: Annotated[float, Field(ge=0)] | None = None  # per million tokens
    price_completion: Annotated[float, Field(ge=0)] | None = None
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    extra: dict[str, Any] | None = None  # further fields of the request body, in place of the preset's


def _settings_path(env: Mapping[str, str]) -> tuple[Path, bool]:
    """Where the settings file is, and whether it must be there."""
    if named := env.get("EMBODIED_PLANNER_FILE"):
        return Path(named).expanduser(), True
    base = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME", "~"), ".config")
    return Path(base).expanduser() / "embodied" / "planner.toml", False


def read_settings(env: Mapping[str, str]) -> Settings:
    """The settings file's content; empty settings when there is none and none was named. Raises ``CheckpointError``."""
    path, required = _settings_path(env)
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())  # of the very file that is read, not of what the name means a moment later
            if not stat.S_ISREG(about.st_mode):
                raise CheckpointError(f"{path} is not a plain file")
            if about.st_mode & 0o077:
                raise CheckpointError(
                    f"{path} can hold a key and others may read it (mode {stat.S_IMODE(about.st_mode):04o}); "
                    f"run: chmod 600 {path}"
                )
            if about.st_uid not in (os.geteuid(), 0):
                raise CheckpointError(f"{path} belongs to another user; make your own copy with mode 600")
            content = file.read(_MOST_FILE_BYTES + 1)
    except FileNotFoundError:
        if required:
            raise CheckpointError(f"EMBODIED_PLANNER_FILE names {path}, and there is no such file") from None
        return Settings()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > _MOST_FILE_BYTES:
        raise CheckpointError(f"{path} is larger than settings can be")
    try:
        return Settings.model_validate(tomllib.loads(content.decode("utf-8")))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise CheckpointError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; the settings are "
            f"{', '.join(Settings.model_fields)}"
        ) from None  # the input may be a key
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise CheckpointError(f'{path} is not TOML; a line looks like: model = "qwen3-vl-plus"') from None
