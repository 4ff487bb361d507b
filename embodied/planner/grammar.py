"""The grammar of plans, rebuilt for each call: what a model may say now.

Written in Lark and carried out by ``llguidance``: at each step it masks every token that could not go on to a valid
plan. The labels are an argument, so a model can be held to objects that exist and skills that are possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from embodied.plan import Direction, RefuseReason, Relation
from embodied.planner.plan_text import NUMBERS
from sim.scene import COLORS, KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: What the shipped model may call an object when it asks or refuses: less definite than a label.
VAGUE = (*KINDS, *(f"{color} object" for color in COLORS), "object", "container", "destination", "direction")
LABELS = tuple(f"{color} {kind}" for color in COLORS for kind in KINDS)
MOST_CALLS = 12


def plan_grammar(
    *, labels: Sequence[str] = LABELS, numbers: Sequence[str] = NUMBERS, most_calls: int = MOST_CALLS
) -> str:
    """A Lark grammar of compact plan JSON about objects called ``labels`` with coordinates from ``numbers``."""
    grasp = [label for label in labels if label.split()[-1] in ("cube", "cylinder", "ball")] or list(labels)
    drawer = [label for label in labels if label.split()[-1] == "drawer"] or list(labels)
    button = [label for label in labels if label.split()[-1] == "button"] or list(labels)
    point = r'"\",\"point_2d\":[" NUMBER "," NUMBER'
    rules = [
        f'start: "[" (ask | refuse | act ("," act)~0..{most_calls - 1}) "]"',
        "act: pick | place | push | reach | open | close | press | home",
        rf'pick: "{{\"skill\":\"pick\",\"object\":\"" GRASP {point} "]}}"',
        rf'reach: "{{\"skill\":\"reach\",\"object\":\"" LABEL {point} "]}}"',
        rf'open: "{{\"skill\":\"open\",\"object\":\"" DRAWER {point} "]}}"',
        rf'close: "{{\"skill\":\"close\",\"object\":\"" DRAWER {point} "]}}"',
        rf'press: "{{\"skill\":\"press\",\"object\":\"" BUTTON {point} "]}}"',
        rf'push: "{{\"skill\":\"push\",\"direction\":\"" DIRECTION "\",\"object\":\"" GRASP {point} "]}}"',
        r'place: "{\"skill\":\"place\",\"relation\":\"" (beside | on)',
        rf'beside: RELATION "\",\"object\":\"" LABEL {point} "]}}"',
        rf'on: "on\",\"object\":\"" LABEL {point} ("],\"top_2d\":[" NUMBER "," NUMBER)? "]}}"',
        r'home: "{\"skill\":\"home\"}"',
        r'ask: "{\"skill\":\"ask\",\"object\":\"" (LABEL | VAGUE) "\"}"',
        r'refuse: "{\"skill\":\"refuse\",\"reason\":\"" REASON ("\",\"object\":\"" (LABEL | VAGUE))? "\"}"',
        _terminal("LABEL", labels),
        _terminal("GRASP", grasp),
        _terminal("DRAWER", drawer),
        _terminal("BUTTON", button),
        _terminal("VAGUE", VAGUE),
        _terminal("DIRECTION", get_args(Direction)),
        _terminal("RELATION", [r for r in get_args(Relation) if r != "on"]),
        _terminal("REASON", get_args(RefuseReason)),
        _terminal("NUMBER", numbers),
    ]
    return "\n".join(rules)


def _terminal(name: str, words: Sequence[str]) -> str:
    return f"{name}: " + " | ".join(f'"{word}"' for word in words)


class PlanMask:
    """A logits processor for transformers' ``generate`` that admits only plans; for a batch of one."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        import llguidance.hf

        self._lexer = llguidance.hf.from_tokenizer(tokenizer)

    def start(self, grammar: str) -> Any:
        """A processor for one call of ``generate``."""
        import llguidance
        import llguidance.numpy
        import numpy as np
        import torch
        from transformers import LogitsProcessor

        matcher = llguidance.LLMatcher(self._lexer, llguidance.grammar_from("lark", grammar))
        if matcher.is_error():
            raise ValueError(f"the plan grammar is broken: {matcher.get_error()}")
        size = self._lexer.vocab_size
        mask = llguidance.numpy.allocate_token_bitmask(1, size)

        class Masked(LogitsProcessor):
            """Follows the tokens generated so far and masks the next."""

            seen = -1

            def __call__(self, input_ids: Any, scores: Any) -> Any:
                if self.seen >= 0:
                    for token in input_ids[0, self.seen :].tolist():
                        matcher.consume_token(token)
                self.seen = input_ids.shape[1]
                llguidance.numpy.fill_next_token_bitmask(matcher, mask)
                # Unpacked here: llguidance's own way of applying it compiles a kernel, seconds before the first plan.
                allowed = np.unpackbits(mask[0].view(np.uint8), bitorder="little")[:size].astype(bool)
                scores[0, : allowed.size][torch.from_numpy(~allowed)] = -float("inf")
                return scores

        return Masked()
