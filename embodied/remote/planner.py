"""A planner that asks a vision-language model behind an OpenAI-compatible endpoint.

    picture, words -> [consent?] -> request -> answer -> parse -> check -> plan
                                       ^_______ not valid: say why, ask again ___|

The arm stands still while this happens, and it takes at most the endpoint's ``budget_s`` seconds. What comes out has
passed ``answers.read_answer`` and ``plan_checks.guarded``, whatever the model said.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from embodied.plan import Plan
from embodied.plan_checks import guarded
from embodied.remote.answers import read_answer
from embodied.remote.client import ChatClient, Message
from embodied.remote.endpoint import Endpoint
from embodied.remote.prompts import Picture, picture_for, plan_schema, system_prompt
from hardware.camera_model import Frame
from hardware.errors import PlanError

#: An answer that is no plan is sent back so many times, with what is wrong with it.
RE_ASKS = 1
_MOST_INSTRUCTION = 1000


@dataclass(frozen=True)
class Usage:
    """What a planner has used so far. ``cost`` is None when no prices were given; tokens are the server's count."""

    plans: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost: float | None = None
    currency: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for the run log."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}

    def __add__(self, other: Usage) -> Usage:
        """The two together; costs in different currencies do not add up, and one without a price leaves it open."""
        same = self.currency == other.currency or not (self.plans and other.plans)
        known = [u.cost for u in (self, other) if u.cost is not None or u.requests]
        cost = sum(c for c in known if c is not None) if same and known and None not in known else None
        return Usage(
            self.plans + other.plans, self.requests + other.requests, self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens, self.seconds + other.seconds, cost,
            self.currency or other.currency,
        )  # fmt: skip


class RemotePlanner:
    """A model at an endpoint. ``usage`` counts everything asked so far, ``last_usage`` the last plan alone."""

    scripted = False

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        rng: np.random.Generator | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Sends nothing yet. Raises ``CheckpointError`` when the ``openai`` package is missing."""
        self.endpoint = endpoint
        self.name = f"{endpoint.model} at {endpoint.host}"
        self.usage = Usage(currency=endpoint.currency)
        self.last_usage = self.usage
        self.last_text = ""
        self._clock = clock
        self._client = ChatClient(endpoint, rng=rng, clock=clock, sleep=sleep)

    def plan(self, instruction: str, frame: Frame) -> Plan:
        """The model's plan, or a question to the user instead of one that does what was not asked.

        Raises ``PlanError`` without the user's consent to send the picture, when the endpoint does not answer in time
        or at all, and when its answer is no plan.
        """
        words = " ".join(instruction.split())
        if not words:
            raise PlanError('the instruction is empty; say what to do, for example "put the red cube in the blue bowl"')
        if len(words) > _MOST_INSTRUCTION:
            raise PlanError(f"the instruction is longer than {_MOST_INSTRUCTION} characters; say it in fewer words")
        self.endpoint.insist_on_consent()
        began, asked = self._clock(), self._client.requests
        tokens = [0, 0]
        try:
            return self._converse(words, frame, began + self.endpoint.budget_s, tokens)
        finally:
            self._count(self._clock() - began, self._client.requests - asked, tokens)

    def _converse(self, words: str, frame: Frame, deadline: float, tokens: list[int]) -> Plan:
        picture = picture_for(self.endpoint, frame.rgb)
        schema = plan_schema(self.endpoint.points, picture.width, picture.height)
        messages = self._messages(words, picture)
        for last in (False,) * RE_ASKS + (True,):
            reply = self._client.ask(messages, schema, deadline)
            tokens[0] += reply.prompt_tokens
            tokens[1] += reply.completion_tokens
            self.last_text = reply.text
            try:
                if not reply.text.strip() and self._client.weaken():
                    raise PlanError(
                        "the planner's answer is empty"
                    )  # some servers choke on schema and picture together
                plan = read_answer(reply.text, self.endpoint.points, picture.width, picture.height, finish=reply.finish)
                return guarded(plan, words)
            except PlanError as error:
                if last:
                    raise PlanError(f"{error} (from {self.name})") from None
                messages = self._told_off(self._messages(words, picture), reply.text, str(error))
        raise PlanError(f"{self.name} gave no plan")

    def _messages(self, words: str, picture: Picture) -> list[Message]:
        content = [
            {"type": "image_url", "image_url": {"url": picture.url}},
            {"type": "text", "text": words},
        ]
        question: list[Message] = [{"role": "user", "content": content}]
        if self.endpoint.prompt == "bare":
            return question
        told = system_prompt(self.endpoint.points, picture.width, picture.height)
        return [{"role": "system", "content": told}, *question]

    def _told_off(self, messages: list[Message], text: str, why: str) -> list[Message]:
        if self.endpoint.prompt == "bare":
            return messages
        answer = {"role": "assistant", "content": text[:2000] or "(nothing)"}
        return [*messages, answer, {"role": "user", "content": f"That is not valid: {why}. Answer again, JSON only."}]

    def _count(self, seconds: float, requests: int, tokens: list[int]) -> None:
        prices = (self.endpoint.price_prompt, self.endpoint.price_completion)
        cost = None
        if prices[0] is not None and prices[1] is not None:
            cost = (tokens[0] * prices[0] + tokens[1] * prices[1]) / 1e6
        self.last_usage = Usage(1, requests, tokens[0], tokens[1], seconds, cost, self.endpoint.currency)
        self.usage = self.usage + self.last_usage
