"""The grammar of plans, rebuilt for each call: what a model may say now.

Written in Lark and carried out by ``llguidance``: at each step it masks every token that could not go on to a valid
plan. What is visible and what the gripper holds are arguments, and the order of the calls follows the hand:

    empty --pick--> holding --place--> empty        ``home`` in either state, everything else with an empty hand

so a plan that the grounder would refuse for its order cannot be spoken. Speech acts stay free: what is not there must
be nameable, to say that it is not there.

What this does not protect against: a wrong object or a wrong point. Out of reach is the grounder's word, not the
grammar's: a model held to the points in reach would point at something else instead of being told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from embodied.plan import MAX_CALLS, Direction, RefuseReason, Relation
from embodied.planner.plan_text import NUMBERS
from hardware.errors import PlanError
from sim.scene import COLORS, GRASPABLE, KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: What the shipped model may call an object when it asks or refuses: less definite than a label.
VAGUE = (*KINDS, *(f"{color} object" for color in COLORS), "object", "container", "destination", "direction")
LABELS = tuple(f"{color} {kind}" for color in COLORS for kind in KINDS)
MOST_CALLS = MAX_CALLS
#: A name in a plan of a model with an open vocabulary: nothing that could end the JSON string.
OPEN_NAME = "/[A-Za-z][A-Za-z0-9 '-]{0,58}/"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _'-]{0,59}")
#: So many compiled grammars are kept: one for each thing the gripper holds and each set of visible objects.
_KEPT = 16
_POINT = r'"\",\"point_2d\":[" X "," Y'


def any_of(words: Sequence[str]) -> str:
    """The Lark alternatives of some words. Raises ``PlanError`` for one that could end a JSON string."""
    for word in words:
        if not _PLAIN.fullmatch(word):
            raise PlanError(f"an object cannot be called {word[:40]!r} in a plan; use letters, digits and spaces")
    return " | ".join(f'"{word}"' for word in words)


@dataclass(frozen=True)
class NumberRule:
    """Lark definitions of what a model may write as the first and the second number of a point."""

    first: str
    second: str

    @classmethod
    def one_of(cls, numbers: Sequence[str]) -> NumberRule:
        """One of a list of numbers, for both."""
        return cls(any_of(numbers), any_of(numbers))

    @classmethod
    def integers(cls, first_max: int, second_max: int) -> NumberRule:
        """Integers without leading zeros, from 0 to the maxima."""
        return cls(f"/{integers_to(first_max)}/", f"/{integers_to(second_max)}/")


#: The shipped model's: single tokens in steps of 5 of 1000.
STEPS_OF_FIVE = NumberRule.one_of(NUMBERS)


def integers_to(most: int) -> str:
    """A regular expression of the decimal integers from 0 to ``most``."""
    digits = str(most)
    parts = ["0", *(f"[1-9][0-9]{{{length - 1}}}" for length in range(1, len(digits)))]
    for index, digit in enumerate(digits):
        low = 1 if index == 0 else 0
        if int(digit) > low:
            rest = len(digits) - index - 1
            parts.append(f"{digits[:index]}[{low}-{int(digit) - 1}]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return "(" + "|".join(dict.fromkeys([*parts, digits])) + ")"


def plan_grammar(
    *,
    labels: Sequence[str] | None = LABELS,
    visible: Sequence[str] | None = None,
    holding: str | None = None,
    numbers: NumberRule = STEPS_OF_FIVE,
    most_calls: int = MOST_CALLS,
) -> str:
    """A Lark grammar of compact plan JSON.

    ``labels``: all names the model knows; None lets it use any words. ``visible``: what motions may be about, None for
    all of ``labels``. ``holding``: what the gripper holds, None for nothing. ``numbers``: how it writes a point.
    """
    seen = labels if visible is None else visible
    slots = {
        "LABEL": _fit(seen, KINDS),
        "GRASP": _fit(seen, GRASPABLE),
        "DRAWER": _fit(seen, ("drawer",)),
        "BUTTON": _fit(seen, ("button",)),
        # Nothing can be put into or onto a drawer with this arm; the grounder would refuse it.
        "SUPPORT": _fit(seen, [kind for kind in KINDS if kind != "drawer"]),
    }
    acts = {
        "reach": ("LABEL", rf'"{{\"skill\":\"reach\",\"object\":\"" LABEL {_POINT} "]}}"'),
        "push": (
            "GRASP",
            rf'"{{\"skill\":\"push\",\"direction\":\"" DIRECTION "\",\"object\":\"" GRASP {_POINT} "]}}"',
        ),
        "open": ("DRAWER", rf'"{{\"skill\":\"open\",\"object\":\"" DRAWER {_POINT} "]}}"'),
        "close": ("DRAWER", rf'"{{\"skill\":\"close\",\"object\":\"" DRAWER {_POINT} "]}}"'),
        "press": ("BUTTON", rf'"{{\"skill\":\"press\",\"object\":\"" BUTTON {_POINT} "]}}"'),
        "pick": ("GRASP", rf'"{{\"skill\":\"pick\",\"object\":\"" GRASP {_POINT} "]}}"'),
    }
    acts = {name: rule for name, rule in acts.items() if slots[rule[0]]}
    places = {
        "beside": ("LABEL", rf'BESIDE "\",\"object\":\"" LABEL {_POINT} "]}}"'),
        "into": ("SUPPORT", rf'"in\",\"object\":\"" SUPPORT {_POINT} "]}}"'),
        "onto": ("SUPPORT", rf'"on\",\"object\":\"" SUPPORT {_POINT} ("],\"top_2d\":[" X "," Y)? "]}}"'),
    }
    places = {name: rule for name, rule in places.items() if slots[rule[0]]}
    free = " | ".join(name for name in [*acts, "home"] if name != "pick")
    named = "(LABEL_SAID | VAGUE)" if labels is not None else "LABEL_SAID"
    rules = [
        f'start: "[" (ask | refuse | {"holding" if holding else "empty"}{most_calls}) "]"',
        *_sequences(most_calls, can_pick="pick" in acts, can_place=bool(places)),
        f"free: {free}",
        *(f"{name}: {rule}" for name, (_, rule) in {**acts, **places}.items()),
        *([rf'place: "{{\"skill\":\"place\",\"relation\":\"" ({" | ".join(places)})'] if places else []),
        r'home: "{\"skill\":\"home\"}"',
        rf'ask: "{{\"skill\":\"ask\",\"object\":\"" {named} "\"}}"',
        rf'refuse: "{{\"skill\":\"refuse\",\"reason\":\"" REASON ("\",\"object\":\"" {named})? "\"}}"',
        *(f"{name}: {words if isinstance(words, str) else any_of(words)}" for name, words in slots.items() if words),
        f"LABEL_SAID: {OPEN_NAME if labels is None else any_of(labels)}",
        f"VAGUE: {any_of(VAGUE)}",
        f"DIRECTION: {any_of(get_args(Direction))}",
        f"BESIDE: {any_of([r for r in get_args(Relation) if r not in ('in', 'on')])}",
        f"REASON: {any_of(get_args(RefuseReason))}",
        f"X: {numbers.first}",
        f"Y: {numbers.second}",
    ]
    return "\n".join(rules)


def _sequences(most: int, *, can_pick: bool, can_place: bool) -> list[str]:
    """Rules ``empty1..most`` and ``holding1..most``: at most so many further calls, with the hand in that state."""
    rules = []
    for left in range(1, most + 1):

        def then(state: str, left: int = left) -> str:
            return f' ("," {state}{left - 1})?' if left > 1 else ""

        with_empty_hand = [f"free{then('empty')}"]
        if can_pick:
            with_empty_hand.append(f"pick{then('holding')}")
        with_full_hand = [f"home{then('holding')}"]
        if can_place:
            with_full_hand.append(f"place{then('empty')}")
        rules += [f"empty{left}: " + " | ".join(with_empty_hand), f"holding{left}: " + " | ".join(with_full_hand)]
    return rules


def _fit(labels: Sequence[str] | None, kinds: Sequence[str]) -> Sequence[str]:
    """Those labels whose last word is one of ``kinds``, or no kind we know; the open name when labels are open."""
    if labels is None:
        return OPEN_NAME
    return [label for label in labels if (word := label.rpartition(" ")[2]) in kinds or word not in KINDS]


class PlanMask:
    """Holds a tokenizer's vocabulary against grammars; for one sequence at a time."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, size: int | None = None) -> None:
        """``size``: rows of the model's embedding when there are more than tokens. Raises ``ValueError`` for a
        tokenizer that is no byte-level or byte-fallback one.
        """
        import llguidance.hf

        self._lexer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=size)
        self._compiled: dict[str, Any] = {}

    def follow(self, grammar: str) -> Follower:
        """Someone who follows one answer through ``grammar``. Compiling takes milliseconds, so the last few are kept."""
        import llguidance

        if grammar not in self._compiled:
            matcher = llguidance.LLMatcher(self._lexer, llguidance.grammar_from("lark", grammar))
            if matcher.is_error():
                raise ValueError(f"the plan grammar is broken: {matcher.get_error()}")
            while len(self._compiled) >= _KEPT:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[grammar] = matcher
        return Follower(self._compiled[grammar].deep_copy(), self._lexer.vocab_size)

    def start(self, grammar: str) -> Any:
        """A logits processor for one call of transformers' ``generate``, batch of one."""
        import torch
        from transformers import LogitsProcessor

        follower = self.follow(grammar)

        class Masked(LogitsProcessor):
            """Follows the tokens generated so far and masks the next."""

            seen = -1

            def __call__(self, input_ids: Any, scores: Any) -> Any:
                if self.seen >= 0:
                    for token in input_ids[0, self.seen :].tolist():
                        follower.take(token)
                self.seen = input_ids.shape[1]
                forbidden = torch.ones(scores.shape[1], dtype=torch.bool)
                forbidden[torch.from_numpy(follower.allowed())] = False
                scores[0, forbidden] = -float("inf")
                return scores

        return Masked()


class Follower:
    """Where one answer stands in a grammar."""

    def __init__(self, matcher: Any, size: int) -> None:
        import llguidance.numpy

        self._matcher, self._size = matcher, size
        self._mask = llguidance.numpy.allocate_token_bitmask(1, size)

    @property
    def done(self) -> bool:
        """Whether nothing more can be said."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.int64]:
        """Ids of the tokens that may come next."""
        import llguidance.numpy

        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._mask)
        # Unpacked here: llguidance's own way of applying it compiles a kernel, seconds before the first plan.
        bits = np.unpackbits(self._mask[0].view(np.uint8), bitorder="little")[: self._size]
        return np.flatnonzero(bits)

    def forced(self) -> list[int]:
        """Tokens that must come next because the grammar leaves no choice; often none."""
        return list(self._matcher.compute_ff_tokens())

    def best(self, logits: Any) -> int:
        """The allowed token with the highest of the ``logits`` (vocabulary,)."""
        allowed = self.allowed()
        if not allowed.size:
            raise PlanError("the model's vocabulary has no token to go on with its plan; use another model")
        return int(allowed[int(logits[allowed].argmax())])

    def take(self, token: int) -> None:
        """Go on by one token."""
        self._matcher.consume_token(token)
