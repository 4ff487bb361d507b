"""One question to an OpenAI-compatible endpoint: bounded in time, in size, in attempts and in where it goes.

    ask ----attempt----x 429, 5xx, reset ----jittered pause----attempt---- answer
     |<------------------------- at most `budget` seconds ------------------------->|

A server is untrusted: its answer is cut off at ``MOST_BYTES``, a redirect is an error (it would carry the picture to a
host nobody agreed to), compression is not asked for (a small answer could unfold into a huge one), proxies are not used
for this machine's own servers, and no sentence made here repeats a key, even when the server does.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embodied.remote.endpoint import Endpoint
from embodied.remote.reply import TOOL, EndpointError, Reply, read_reply, retry_after, server_words
from embodied.remote.settings import Structured
from embodied.remote.waiting import TooSlow, within
from hardware.errors import CheckpointError

if TYPE_CHECKING:
    import openai

MOST_BYTES = 512 * 1024
#: What follows a form of structured output that a server does not take.
_NEXT: dict[Structured, Structured] = {"schema": "json_object", "tools": "json_object", "json_object": "plain"}
_MAY_PASS = (408, 409, 429, 500, 502, 503, 504, 529)
Message = dict[str, Any]


class _Again(Exception):
    """The attempt failed in a way that may pass."""

    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


class _Adapted(Exception):
    """The server did not take a field; the next attempt leaves it out."""


class ChatClient:
    """Asks one endpoint. Remembers which fields its server does not take."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        rng: np.random.Generator | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``rng`` draws the pauses between attempts; unseeded by default, so that no two machines come back together.

        Raises ``CheckpointError`` when the ``openai`` package is missing.
        """
        _insist_on_openai()
        self.endpoint = endpoint
        self.structured: Structured = "plain" if endpoint.prompt == "bare" else endpoint.structured
        self.requests = 0
        self._left_out: set[str] = set()
        self._limit_field = "max_tokens"
        self._rng = rng if rng is not None else np.random.default_rng()
        self._clock, self._sleep = clock, sleep
        self._trust = _trust(endpoint.url)

    def ask(self, messages: list[Message], schema: dict[str, Any], deadline: float) -> Reply:
        """The model's reply before ``deadline`` (of the client's clock), in the form of the JSON ``schema`` where the
        server can be held to one. Raises ``EndpointError``.
        """
        host, attempt = self.endpoint.host, 0
        while True:
            left = deadline - self._clock()
            if left <= 0.0:
                raise self._too_slow()
            try:
                return self._attempt(messages, schema, left)
            except _Adapted:
                continue  # ends: every time one field fewer
            except TooSlow:
                raise self._too_slow() from None
            except _Again as failure:
                attempt += 1
                if attempt > self.endpoint.retries:
                    times = "once" if attempt == 1 else f"{attempt} times"
                    raise EndpointError(f"the remote planner at {host} failed {times}: {failure}") from None
                pause = 0.25 * 2.0**attempt * float(self._rng.uniform(0.5, 1.5))
                if failure.after_s is not None:
                    pause = max(failure.after_s, 0.0) + 0.25 * float(self._rng.random())
                if pause >= deadline - self._clock():
                    asked = f" and asks to wait {failure.after_s:.0f} s" if failure.after_s is not None else ""
                    raise EndpointError(
                        f"the remote planner at {host} failed ({failure}){asked}; a further attempt does not fit into the "
                        f"{self.endpoint.budget_s:g} s that a plan may take"
                    ) from None
                self._sleep(pause)

    def _too_slow(self) -> EndpointError:
        return EndpointError(
            f"the remote planner at {self.endpoint.host} did not answer within {self.endpoint.budget_s:g} s"
        )

    def _attempt(self, messages: list[Message], schema: dict[str, Any], seconds: float) -> Reply:
        """One HTTP request, closed when it returns."""
        import openai

        self.requests += 1
        body = self._body(messages, schema)
        client = self._open(seconds)
        try:
            return within(seconds, lambda: self._send(client, body), abort=client.close)
        except openai.APITimeoutError:
            raise _Again(f"no connection within {self.endpoint.connect_s:g} s") from None
        except openai.APIStatusError as error:
            raise self._judge(error) from None
        except openai.APIConnectionError as error:
            raise _Again(f"the connection failed: {self._clean(error.__cause__ or error)}") from None
        except openai.OpenAIError as error:
            raise EndpointError(f"the remote planner at {self.endpoint.host} failed: {self._clean(error)}") from None
        finally:
            client.close()

    def _open(self, seconds: float) -> openai.OpenAI:
        import httpx2
        import openai

        key = self.endpoint.key.get_secret_value() if self.endpoint.key is not None else "none"
        # The answer's own limit is `within`, which also ends a server that drips; a read must not end a moment before.
        patience = httpx2.Timeout(seconds + 1.0, connect=self.endpoint.connect_s)
        http = httpx2.Client(
            verify=self._trust,
            timeout=patience,
            follow_redirects=False,
            trust_env=not self.endpoint.loopback,
            headers={"Accept-Encoding": "identity"},
            event_hooks={"request": [_strip], "response": [_bound]},
        )
        return openai.OpenAI(api_key=key, base_url=self.endpoint.url, timeout=patience, max_retries=0, http_client=http)

    def _send(self, client: openai.OpenAI, body: dict[str, Any]) -> Reply:
        raw = client.chat.completions.with_raw_response.create(**body)
        reply = read_reply(raw.content, self.endpoint.host)
        return replace(reply, text=self._without_key(reply.text))

    def _body(self, messages: list[Message], schema: dict[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.endpoint.model, "messages": messages, "temperature": 0.0}
        body[self._limit_field] = self.endpoint.max_tokens
        if self.endpoint.extra:
            body["extra_body"] = dict(self.endpoint.extra)
        match self.structured:
            case "schema":
                named = {"name": "plan", "strict": True, "schema": schema}
                body["response_format"] = {"type": "json_schema", "json_schema": named}
            case "json_object":
                body["response_format"] = {"type": "json_object"}
            case "tools":
                described = {"name": TOOL, "description": "Hand the plan to the robot.", "parameters": schema}
                body["tools"] = [{"type": "function", "function": described}]
        return {name: value for name, value in body.items() if name not in self._left_out}

    def _judge(self, error: openai.APIStatusError) -> Exception:
        """What an HTTP error status means for the next attempt."""
        host, status = self.endpoint.host, error.status_code
        said = self._clean(server_words(error.body))
        if status in _MAY_PASS:
            what = "too many requests" if status == 429 else "the server is in trouble"
            return _Again(f"{what} (HTTP {status})", retry_after(error.response.headers.get("retry-after")))
        if status in (400, 422) and self._adapt(said):
            return _Adapted()
        if status in (401, 403):
            return EndpointError(
                f"the remote planner at {host} does not accept the key (HTTP {status}); check EMBODIED_PLANNER_KEY "
                "or the key in the settings file"
            )
        if status == 404:
            return EndpointError(
                f"the remote planner at {host} knows no model {self.endpoint.model!r} or has another base URL (HTTP 404)"
            )
        if 300 <= status < 400:
            return EndpointError(
                f"the remote planner at {host} redirects elsewhere (HTTP {status}), which is not followed; "
                "write its final address as the URL"
            )
        return EndpointError(f"the remote planner at {host} refused the request (HTTP {status}): {said}")

    def _adapt(self, complaint: str) -> bool:
        """Do without what the server complains about, for the rest of the session; False when nothing is left to drop."""
        words = complaint.lower()
        if "max_tokens" in words and self._limit_field == "max_tokens":
            self._limit_field = "max_completion_tokens"
            return True
        for field, names in (("temperature", ("temperature",)), ("extra_body", tuple(self.endpoint.extra))):
            if field not in self._left_out and any(name in words for name in names):
                self._left_out.add(field)
                return True
        if any(
            word in words for word in ("response_format", "schema", "json", "tool", "structured", "grammar", "guided")
        ):
            return self.weaken()
        return False

    def weaken(self) -> bool:
        """Ask for a weaker form of structured output from now on; False when there is none."""
        weaker = _NEXT.get(self.structured)
        if weaker is None:
            return False
        self.structured = weaker
        return True

    def _clean(self, text: object) -> str:
        """A server's words for a sentence of ours: one short line without the key."""
        line = "".join(c if c.isprintable() else " " for c in str(text))
        return " ".join(self._without_key(line).split())[:200] or "no reason given"

    def _without_key(self, text: str) -> str:
        key = self.endpoint.key.get_secret_value() if self.endpoint.key is not None else ""
        return text.replace(key, "***") if len(key) >= 6 else text  # a shorter one is no secret, and may be a word


def _insist_on_openai() -> None:
    try:
        import openai  # noqa: F401
    except ModuleNotFoundError as error:
        raise CheckpointError(
            "remote planners need the openai package; install it with: pip install 'embodied[remote]'"
        ) from error


def _trust(url: str) -> ssl.SSLContext:
    """The certificates to believe, read once. Plain http needs none, and nothing is believed there."""
    if url.startswith("https:"):
        import httpx2

        return httpx2.create_ssl_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _strip(request: Any) -> None:
    """Take out headers that a chat server has no use for: what machine this is, another vendor's organisation."""
    for name in list(request.headers):
        if name.lower().startswith(("x-stainless-", "openai-")) and "raw-response" not in name.lower():
            del request.headers[name]


def _bound(response: Any) -> None:
    """Cut an answer off at ``MOST_BYTES``, before anything of it is kept."""
    import httpx2

    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise EndpointError(f"the remote planner's answer is compressed ({encoding[:20]}), which was not asked for")

    class Bounded(httpx2.SyncByteStream):
        """The response's own stream, counted."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __iter__(self) -> Iterator[bytes]:
            count = 0
            for chunk in self._inner:
                count += len(chunk)
                if count > MOST_BYTES:
                    raise EndpointError(
                        f"the remote planner's answer is longer than {MOST_BYTES // 1024} KiB; no plan is"
                    )
                yield chunk

        def close(self) -> None:
            self._inner.close()

    response.stream = Bounded(response.stream)
