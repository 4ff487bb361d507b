"""Where a remote planner is, which model answers there, with which key, and what may be sent to it.

Settings come from four places, the first that says something wins: the planner's name (``remote:PRESET/MODEL`` or
``https://host/v1#model``), the environment (``EMBODIED_PLANNER_URL``, ``..._MODEL``, ``..._KEY``, ``..._POINTS``,
``..._BUDGET_S`` and ``EMBODIED_SEND_PICTURES_TO``), a settings file, the preset. The file is TOML with the fields of
``Settings`` and must belong to the user and be readable by nobody else; ``EMBODIED_PLANNER_FILE`` names it, else it is
``embodied/planner.toml`` in the user's configuration folder.

A key belongs to the host it was given with: one written beside a URL is never sent to another host.

What this does not protect against: a name in the user's own ``/etc/hosts``, and what the endpoint does with a picture
once it may have it.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic import SecretStr

from embodied.remote.settings import Points, Prompting, Settings, Structured, read_settings
from hardware.errors import CheckpointError, PlanError

#: Thinking costs seconds, and on DashScope it rules structured output out. vLLM hands the switch to the chat template.
_NO_THINKING: Mapping[str, Any] = MappingProxyType({"enable_thinking": False})
_NO_THINKING_IN_TEMPLATE: Mapping[str, Any] = MappingProxyType({"chat_template_kwargs": dict(_NO_THINKING)})


@dataclass(frozen=True)
class Preset:
    """What is known of a kind of server."""

    url: str
    model: str = ""
    key_variable: str = ""  # the vendor's own environment variable, used when ours is not set
    structured: Structured = "schema"
    points: Points | None = None  # when the model's name says nothing; None: the user must say
    prompt: Prompting = "full"
    extra: Mapping[str, Any] = field(default_factory=dict)  # further fields of the request body


#: Add a server here and nowhere else. Base URLs and formats: the vendors' documentation, autumn 2026.
PRESETS: dict[str, Preset] = {
    # Structured output works only with thinking off, which is not the default from qwen3.5 on; vision models take
    # json_object but mostly no schema. Other regions have other hosts: set EMBODIED_PLANNER_URL.
    "dashscope": Preset(
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "qwen3-vl-plus", "DASHSCOPE_API_KEY",
        "json_object", "rel1000_xy", extra=_NO_THINKING,
    ),
    # No convention of its own: it follows the one that the prompt states.
    "openai": Preset("https://api.openai.com/v1", "", "OPENAI_API_KEY", "schema", "rel1000_xy"),
    "vllm": Preset("http://127.0.0.1:8000/v1", extra=_NO_THINKING_IN_TEMPLATE),
    # A schema together with a picture often makes it answer nothing at all: ask in words and read with care.
    "ollama": Preset("http://127.0.0.1:11434/v1", structured="plain"),
    # Ignores response_format.
    "transformers": Preset("http://127.0.0.1:8000/v1", structured="plain"),
    # This project's own model behind `transformers serve`: it knows the plan language and nothing else.
    "shipped": Preset("http://127.0.0.1:8000/v1", structured="plain", points="rel1000_xy", prompt="bare"),
}  # fmt: skip

#: What a model's name says about its points; the first pattern found in the lower-case name counts.
_POINTS_BY_MODEL: tuple[tuple[str, Points], ...] = (
    (r"qwen-?2\.5-?vl", "abs_px"),
    (r"robobrain-?2", "abs_px"),
    (r"qwen-?2-?vl", "rel1000_xy"),
    (r"qwen-?3(\.\d+)?([-_:]|$)", "rel1000_xy"),  # qwen3-vl, qwen3.5-plus, ...
    (r"gemini", "rel1000_yx"),
    (r"molmo", "percent"),
    (r"robopoint", "unit"),
)


@dataclass(frozen=True)
class Endpoint:
    """Everything a request needs. Its ``repr`` never shows the key."""

    url: str
    model: str
    points: Points
    key: SecretStr | None = field(default=None, repr=False)
    structured: Structured = "plain"
    prompt: Prompting = "full"
    extra: Mapping[str, Any] = field(default_factory=dict)
    send_pictures_to: str = ""
    budget_s: float = 20.0
    connect_s: float = 5.0
    retries: int = 2
    max_tokens: int = 1200
    price_prompt: float | None = None
    price_completion: float | None = None
    currency: str = "USD"

    @property
    def host(self) -> str:
        """The host's name, in lower case."""
        return urlsplit(self.url).hostname or ""

    @property
    def loopback(self) -> bool:
        """Whether the endpoint is on this machine."""
        return is_loopback(self.host)

    def insist_on_consent(self) -> None:
        """Raise ``PlanError`` unless the user has agreed to send pictures to exactly this host."""
        if self.loopback or self.send_pictures_to.strip().lower() == self.host:
            return
        plainly = " unencrypted" if self.url.startswith("http:") else ""
        given = f" (it is set to {self.send_pictures_to!r}, another host)" if self.send_pictures_to else ""
        raise PlanError(
            f"the remote planner would send the camera picture and your words{plainly} to {self.host}, and you have not agreed "
            f"to that{given}; to allow it, set EMBODIED_SEND_PICTURES_TO={self.host}, or write "
            f'send_pictures_to = "{self.host}" into the settings file; or use --planner local, which sends nothing'
        )


def is_loopback(host: str) -> bool:
    """Whether a host's name is this machine: ``localhost``, 127.0.0.0/8 or ::1 written out, and nothing else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def resolve(spec: str = "remote", environ: Mapping[str, str] | None = None) -> Endpoint:
    """The endpoint that a planner's name stands for. Raises ``CheckpointError`` when something is missing or wrong.

    ``spec``: ``remote``, ``remote:PRESET``, ``remote:PRESET/MODEL`` or ``URL#MODEL``.
    """
    env = os.environ if environ is None else environ
    named_preset, named_url, named_model = _parse_spec(spec)
    file = read_settings(env)
    preset_name = named_preset or ("" if named_url else file.preset or "")
    if preset_name and preset_name not in PRESETS:
        raise CheckpointError(
            f"there is no preset {preset_name!r} for remote planners; choose one of {', '.join(PRESETS)}, or give a "
            "URL: https://host/v1#model"
        )
    preset = PRESETS[preset_name] if preset_name else None
    # A preset in the planner's name goes to that preset's server unless the environment moves it.
    file_url = "" if named_preset and file.preset != named_preset else file.url or ""
    url = named_url or env.get("EMBODIED_PLANNER_URL") or file_url or (preset.url if preset else "")
    if not url:
        raise CheckpointError(
            "no remote planner is set up: use --planner remote:PRESET/MODEL with one of the presets "
            f"{', '.join(PRESETS)}, --planner https://host/v1#model, or set EMBODIED_PLANNER_URL and "
            "EMBODIED_PLANNER_MODEL"
        )
    host = _checked_url(url)
    same_place = not named_url or _host_of(file.url or "") == host  # the file's model is the model of the file's server
    model = (
        named_model
        or env.get("EMBODIED_PLANNER_MODEL")
        or (file.model if same_place and (not named_preset or file.preset == named_preset) else "")
        or (preset.model if preset else "")
    )
    if not model:
        raise CheckpointError(f"which model shall answer at {host}? Name it: {spec.split('#')[0]}#MODEL for a URL, "
                              "remote:PRESET/MODEL for a preset, or EMBODIED_PLANNER_MODEL")  # fmt: skip
    key = _key(env, file, preset, host)
    if key is not None and url.startswith("http:") and not is_loopback(host):
        raise CheckpointError(
            f"the key for {host} would travel unencrypted over http; use https, or a tunnel to 127.0.0.1"
        )
    chosen: dict[str, Any] = {
        "structured": file.structured or (preset.structured if preset else "schema"),
        "prompt": file.prompt or (preset.prompt if preset else "full"),
        "extra": file.extra if file.extra is not None else preset.extra if preset else {},
        "send_pictures_to": env.get("EMBODIED_SEND_PICTURES_TO") or file.send_pictures_to or "",
        "budget_s": _number(env, "EMBODIED_PLANNER_BUDGET_S") or file.budget_s or 20.0,
    }
    for name in ("retries", "max_tokens", "price_prompt", "price_completion", "currency"):
        if getattr(file, name) is not None:
            chosen[name] = getattr(file, name)
    points = _points(env.get("EMBODIED_PLANNER_POINTS") or file.points, model, preset)
    return Endpoint(url.rstrip("/"), model, points, key, **chosen)


def _parse_spec(spec: str) -> tuple[str, str, str]:
    """Preset, URL and model in a planner's name; each may be empty."""
    if spec.startswith(("http://", "https://")):
        url, _, model = spec.partition("#")
        return "", url, model
    head, _, rest = spec.partition(":")
    if head != "remote":
        raise CheckpointError(
            f"{spec!r} is no remote planner; write remote, remote:PRESET/MODEL or https://host/v1#model"
        )
    preset, _, model = rest.partition("/")
    return preset, "", model


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _checked_url(url: str) -> str:
    """The host of a usable base URL. Raises ``CheckpointError``, without repeating what may be a password."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise CheckpointError("the remote planner's URL cannot be read; it looks like https://host/v1") from error
    if parts.username is not None or parts.password is not None:
        raise CheckpointError(
            "the remote planner's URL holds a user name or password; put the key into EMBODIED_PLANNER_KEY instead"
        )
    if parts.scheme not in ("http", "https") or not host or parts.query or re.search(r"[\s\x00-\x1f\\]", url):
        raise CheckpointError(f"{url[:80]!r} is no base URL of a remote planner; one looks like https://host/v1")
    return host


def _key(env: Mapping[str, str], file: Settings, preset: Preset | None, host: str) -> SecretStr | None:
    """The key meant for ``host``, if there is one."""
    given = env.get("EMBODIED_PLANNER_KEY", "").strip()
    beside = env.get("EMBODIED_PLANNER_URL", "")
    if given and (not beside or _host_of(beside) == host):
        return SecretStr(given)
    file_host = _host_of(file.url or (PRESETS[file.preset].url if file.preset in PRESETS else ""))
    if file.key is not None and file_host == host:
        return file.key
    if preset is not None and preset.key_variable and _host_of(preset.url) == host:
        theirs = env.get(preset.key_variable, "").strip()
        return SecretStr(theirs) if theirs else None
    return None


def _number(env: Mapping[str, str], name: str) -> float | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 300:
        raise CheckpointError(f"{name} is a number of seconds between 0 and 300, not {text[:20]!r}")
    return value


def _points(wanted: str | None, model: str, preset: Preset | None) -> Points:
    if wanted:
        found: Points | None = next((p for p in get_args(Points) if p == wanted), None)
        if found is None:
            raise CheckpointError(f"points cannot be {wanted!r}; choose one of {', '.join(get_args(Points))}")
        return found
    for pattern, points in _POINTS_BY_MODEL:
        if re.search(pattern, model.lower()):
            return points
    if preset is not None and preset.points is not None:
        return preset.points
    raise CheckpointError(
        f"how does {model!r} write points in a picture? Say it with EMBODIED_PLANNER_POINTS or points = in the settings "
        f"file: one of {', '.join(get_args(Points))} (Qwen3-VL: rel1000_xy, Qwen2.5-VL: abs_px, Gemini: rel1000_yx)"
    )
