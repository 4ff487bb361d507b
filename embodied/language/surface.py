"""From segments to a typed sentence: politeness, spaces, capitals, final punctuation and the rare slip of a finger."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from embodied.language.patterns import Segment
from embodied.language.words import HELD_OUT_PREFIXES, HELD_OUT_SUFFIXES, PREAMBLES, PREFIXES, SUFFIXES, Voice, invented

TYPO_RATE = 0.03


@dataclass(frozen=True, slots=True)
class Mention:
    """Characters ``char_start:char_end`` of an instruction and the names of the objects they refer to.

    ``objects`` is empty for something that is not there and holds several names for a group or an ambiguous phrase.
    """

    char_start: int
    char_end: int
    objects: tuple[str, ...]


def polite(segments: list[Segment], statement: bool, voice: Voice) -> list[Segment]:
    """Perhaps wrap an instruction in "could you ..." and the like; only imperatives take a prefix."""
    dice = voice.dice
    before = () if statement else (HELD_OUT_PREFIXES if voice.held_out and dice.random() < 0.5 else PREFIXES)
    after = HELD_OUT_SUFFIXES if voice.held_out and dice.random() < 0.5 else SUFFIXES
    if voice.invents and dice.random() < 0.02:
        segments = [(invented(dice) + dice.choice((", ", " ", ", ")), None), *segments]
    elif not voice.held_out and dice.random() < 0.04:
        segments = [(dice.choice(PREAMBLES), None), *segments]
    if before and dice.random() < 0.28:
        prefix = dice.choice(before)
        segments = [(prefix + " ", None), *segments]
        if prefix.split()[0] in ("could", "can", "would", "will", "are"):
            return [*segments, (dice.choice(("?", "?", "", " please?")), None)]
    if dice.random() < 0.12:
        segments = [*segments, (dice.choice(after), None)]
    return segments


def typed(segments: list[Segment], voice: Voice, *, typos: bool) -> tuple[str, tuple[Mention, ...]]:
    """The final text and where its mentions are."""
    dice = voice.dice
    if typos and dice.random() < TYPO_RATE:
        segments = _slip(segments, dice)
    text, mentions = _joined(segments)
    text = _cased(text, dice)
    if text[-1:] not in ".?!":
        text += "." if (roll := dice.random()) < 0.3 else "!" if roll < 0.34 else ""
    return text, mentions


def _joined(segments: list[Segment]) -> tuple[str, tuple[Mention, ...]]:
    """Join with single spaces: an alternative that expanded to nothing leaves two."""
    text = ""
    mentions = []
    for piece, names in segments:
        if not piece:
            continue
        while "  " in piece:
            piece = piece.replace("  ", " ")
        if (not text or text[-1] == " ") and piece[0] == " ":
            piece = piece.lstrip()
            if not piece:
                continue
        if piece[0] in ",.?!;" and text[-1:] == " ":
            text = text.rstrip()
        if names is not None:
            mentions.append(Mention(len(text), len(text) + len(piece.rstrip()), names))
        text += piece
    return text.rstrip(), tuple(mentions)


def _cased(text: str, dice: random.Random) -> str:
    """Change capitals only, so that positions stay valid."""
    if not text.isascii():
        return text
    roll = dice.random()
    if roll < 0.45:
        text = text[:1].upper() + text[1:].replace(" i ", " I ").replace(" i'd ", " I'd ")
        return re.sub(r"(?<=[.?!] )[a-z]", lambda match: match[0].upper(), text)
    if roll < 0.97:
        return text
    return text.upper() if roll < 0.985 else text.title() if "'" not in text else text


def _slip(segments: list[Segment], dice: random.Random) -> list[Segment]:
    """Swap, drop or double one letter inside one longer word."""
    places = [
        (index, at)
        for index, (text, _) in enumerate(segments)
        for at in range(1, len(text) - 2)
        if text[at - 1 : at + 3].isalpha()
    ]
    if not places:
        return segments
    index, at = dice.choice(places)
    text, names = segments[index]
    a, b = text[at], text[at + 1]
    roll = dice.random()
    new = b + a if roll < 0.4 else b if roll < 0.75 else a + a + b
    return [*segments[:index], (text[:at] + new + text[at + 2 :], names), *segments[index + 1 :]]
