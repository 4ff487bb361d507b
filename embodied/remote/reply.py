"""Taking a chat endpoint's reply apart: every part of it may be missing, of another type, or absurd."""

from __future__ import annotations

import email.utils
import json
import time
from dataclasses import dataclass
from typing import Any

from hardware.errors import PlanError

#: The tool that a model calls with its plan, where tools are used.
TOOL = "submit_plan"


class EndpointError(PlanError):
    """The endpoint could not be reached, refused, or gave no usable answer."""


@dataclass(frozen=True)
class Reply:
    """What a model said. ``finish`` is the server's word for why it stopped."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


def server_words(body: object) -> str:
    """The message in an error's body, wherever this server puts it."""
    if isinstance(body, dict):
        inner = body.get("error", body)
        for holder in (inner, body):
            if isinstance(holder, dict):
                for name in ("message", "detail", "msg"):
                    if holder.get(name):
                        return str(holder[name])
        return json.dumps(body, default=str)[:500]
    return str(body or "")


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or an HTTP date."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(seconds, 0.0) if seconds == seconds else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else 0


def read_reply(content: bytes, host: str) -> Reply:
    """The first choice of a chat completion, taken apart with care: every part of it may be missing or of another type."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise EndpointError(
            f"{host} did not answer as a chat endpoint does (no JSON); is its base URL right? It often ends in /v1"
        ) from None
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(body, dict) or not isinstance(choice, dict) or not isinstance(message, dict):
        raise EndpointError(f"{host} did not answer as a chat endpoint does (no choices); is its base URL right?")
    used = body.get("usage")
    usage: dict[str, Any] = used if isinstance(used, dict) else {}
    text = _text_of(message.get("content")) or _tool_text(message.get("tool_calls")) or _text_of(message.get("refusal"))
    return Reply(
        text, str(choice.get("finish_reason") or ""),
        _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")),
    )  # fmt: skip


def _text_of(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(p.get("text", "")) for p in content if isinstance(p, dict) and p.get("type") == "text")
    return content if isinstance(content, str) else ""


def _tool_text(calls: object) -> str:
    """Tool calls as the JSON text that the same plan would be: one ``submit_plan``, or one call per skill."""
    if not isinstance(calls, list) or not calls:
        return ""
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    named = [f for f in functions if isinstance(f, dict)]
    if len(named) == 1 and named[0].get("name") == TOOL:
        arguments = named[0].get("arguments")
        return arguments if isinstance(arguments, str) else json.dumps(arguments)
    return json.dumps([{"name": f.get("name"), "arguments": f.get("arguments")} for f in named])
