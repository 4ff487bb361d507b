"""Words for kinds, colours, verbs, directions and politeness, each with what training uses and what is held out."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from embodied.language.holdout import HELD_OUT_WORDS
from sim.scene import Color, Kind

#: Singular nouns with weights; the first is the plan language's own word.
NOUNS: dict[Kind, tuple[tuple[str, float], ...]] = {
    "cube": (("cube", 10), ("block", 4), ("box", 1), ("square block", 0.5), ("dice", 0.5)),
    "cylinder": (("cylinder", 10), ("can", 2), ("tube", 1.5), ("roll", 0.7), ("tin", 0.5)),
    "ball": (("ball", 10), ("sphere", 2.5), ("orb", 0.7), ("round ball", 0.3)),
    "bowl": (("bowl", 10), ("dish", 1), ("round bowl", 0.3)),
    "tray": (("tray", 10), ("square tray", 0.5), ("serving tray", 0.4)),
    "plate": (("plate", 10), ("disc", 0.7), ("round plate", 0.4), ("flat plate", 0.3)),
    "drawer": (("drawer", 10), ("cabinet drawer", 0.4), ("cabinet", 0.6)),
    "button": (("button", 10), ("push button", 0.4), ("switch", 0.6), ("knob", 0.2)),
}
HELD_OUT_NOUNS: dict[Kind, tuple[str, ...]] = {
    "cube": ("brick",),
    "cylinder": ("barrel",),
    "ball": ("marble",),
    "bowl": ("basin",),
    "tray": ("platter",),
    "plate": ("saucer",),
}
#: Plurals that are not noun + "s".
PLURALS: dict[str, str] = {
    "box": "boxes",
    "dice": "dice",
    "dish": "dishes",
    "switch": "switches",
}
COLOR_WORDS: dict[Color, tuple[tuple[str, float], ...]] = {
    "red": (("red", 14), ("crimson", 0.5), ("scarlet", 0.5), ("bright red", 0.5), ("red colored", 0.3)),
    "orange": (("orange", 14), ("tangerine", 0.4), ("bright orange", 0.4), ("orange-coloured", 0.4)),
    "yellow": (("yellow", 14), ("golden", 0.3), ("bright yellow", 0.5), ("yellow-colored", 0.3)),
    "green": (("green", 14), ("dark green", 0.5), ("forest green", 0.2), ("green coloured", 0.3)),
    "cyan": (("cyan", 9), ("turquoise", 2), ("light blue", 2.5), ("aqua", 0.7), ("teal", 0.7)),
    "blue": (("blue", 14), ("dark blue", 0.8), ("deep blue", 0.3), ("royal blue", 0.3)),
    "purple": (("purple", 12), ("violet", 2.5), ("dark purple", 0.3)),
    "pink": (("pink", 13), ("rose", 0.5), ("magenta", 0.6), ("light pink", 0.3), ("rosy", 0.2)),
    "white": (("white", 14), ("plain white", 0.3), ("snow-white", 0.3), ("white coloured", 0.2)),
    "black": (("black", 14), ("jet black", 0.4), ("pitch black", 0.2), ("black colored", 0.2)),
}
HELD_OUT_COLOR_WORDS: dict[Color, tuple[str, ...]] = {
    "red": ("ruby",),
    "green": ("emerald",),
    "yellow": ("lemon",),
    "blue": ("navy",),
    "purple": ("lavender",),
    "white": ("ivory",),
    "black": ("ebony",),
}

#: Named alternatives for patterns, written <name> there.
NAMED: dict[str, str] = {
    "put": "put|put|put|put|place|place|set|lay|drop|move|bring|transfer|stick|pop|toss|throw|shift|load|leave|park|carry"
    "|send|shove|dunk|drop off|put away|deliver",
    "rest": "put|put|put|put|place|place|set|lay|drop|move|rest|position|stand|leave|park|shift|bring|arrange|balance|install",
    "take": "pick up|pick up|grab|take|lift|get|grasp",
    "grab": "pick up|pick up|pick up|grab|grab|take|take|lift|lift up|get|grasp|grip|hold|take hold of"
    "|get hold of|raise|seize|catch|retrieve|acquire|pinch|clasp|nab|heave up|uplift|pick|obtain",
    "push": "push|push|push|push|slide|nudge|shove|move|shift|drag|force|drive",
    "hand": "gripper|arm|hand|claw",
    "at": "to|over to|towards|toward|above|over",
    "put_d": "deposit|stow|plop|tuck|slip|plunk|dump|relocate",
    "grab_d": "fetch|snatch|collect|pluck|scoop up|clutch|hoist",
    "push_d": "scoot|bump|budge|propel",
    "want": "i want|i want|i would like|i'd like|i need|we need|i wish to have|i would love|i'd prefer|i expect",
    "putting": "putting|putting|placing|placing|setting|laying|dropping|moving|bringing|transferring|leaving|shifting",
    "done": "put|put|placed|placed|set|laid|dropped|moved|brought|transferred|left|shifted|carried",
    "grabbing": "picking up|picking up|grabbing|taking|lifting|lifting up|getting|grasping|gripping|holding|raising|seizing",
    "grabbed": "picked up|picked up|grabbed|taken|lifted|lifted up|grasped|gripped|held|raised|retrieved",
    "pushing": "pushing|pushing|sliding|nudging|shoving|moving|shifting|dragging",
    "shall": "should be|must be|needs to be|has to be|is to be|ought to be|can be|may be|shall be|can now be",
    "how": "how about|what about|i suggest|try|start by|consider|think about|i recommend|let's try|let's start by|the job is|"
    "your job is|this is about|i am asking you for|go on with|help me with",
    "goes": "goes|goes|belongs|should go|should be|must go|needs to go|needs to be|has to go|ought to be|should end up"
    "|needs a place|wants to be|would look good|must end up|is better off",
    "all": "all|all of|every single one of",
    "then": "then|and then|after that|afterward|next",
}

#: Words between the thing that is put and where it goes, by what the destination is.
INTO: dict[Kind, str] = {
    "bowl": "in|in|in|into|into|inside|inside of|in to",
    "tray": "in|in|into|on|on|onto|on top of|inside",
    "plate": "on|on|on|onto|onto|on top of|in|upon",
    "cube": "on|on|on|onto|on top of|on top of|upon|over",
    "cylinder": "on|on|on|onto|on top of|on top of|upon|over",
    "ball": "on|onto|on top of",
    "drawer": "in|into|inside",
    "button": "on|on top of",
}
BESIDE_WORDS: dict[str, str] = {
    "left": "to the left of|to the left of|left of|left of|on the left of|on the left side of|on the left-hand side of",
    "right": "to the right of|to the right of|right of|right of|on the right of|on the right side of"
    "|on the right-hand side of",
    "front": "in front of|in front of|in front of|to the front of|on the near side of|on the camera side of",
    "behind": "behind|behind|behind|in back of|on the far side of|to the back of|at the back of",
    "next": "next to|next to|beside|near|close to|by|alongside|adjacent to",
}
#: Seen in the picture; never "to your left", which would be the arm's left, the picture's right.
TOWARDS_WORDS: dict[str, str] = {
    "left": "left|left|to the left|to the left|to the left|leftwards|towards the left|to the left side",
    "right": "right|right|to the right|to the right|to the right|rightwards|towards the right|to the right side",
    "front": "forward|forwards|to the front|towards the front|towards the camera|closer to the camera|towards me"
    "|toward me|towards the viewer",
    "behind": "backward|backwards|to the back|towards the back|away from the camera|away from me|towards the robot"
    "|towards the arm|further back|back",
}
PREFIXES: tuple[str, ...] = (
    "please", "please", "please", "could you", "could you please", "can you", "can you please", "would you", "will you",
    "i'd like you to", "i want you to", "i need you to", "robot,", "hey robot,", "ok robot,", "now", "now please",
    "okay,", "hey,", "hi,", "hello, please", "go ahead and", "your task is to", "your job is to", "you should",
    "try to", "it's time to", "i would like you to", "could you quickly", "let's", "just", "you need to", "alright,",
    "i'd appreciate it if you would", "do you think you could", "is it possible for you to", "it would be great if you could",
    "it'd be nice if you could", "the plan is to", "what i need now is for you to", "help me and", "your turn:", "robot arm,",
    "come on,", "so,", "well,", "listen,", "be careful and", "quickly", "slowly", "gently", "carefully", "maybe you can",
    "you may now", "you can now", "you have to", "you are supposed to", "i was hoping you could", "i'm asking you to",
    "would you please", "can you help me and", "if you can,", "when you are ready,", "as a next task,", "task:",
    "first of all,",
    "mission:", "instruction:", "i want to see you", "remember to", "don't forget to", "make sure to", "be sure to",
)  # fmt: skip
SUFFIXES: tuple[str, ...] = (
    " please", ", please", ", please", " now", " right now", " for me", ", thanks", ", thank you", " carefully",
    " gently", " slowly", " if you can", " for me please", " quickly", ", ok", ", would you please", " before i forget",
    ", that would be great", ", that would help me", " and be careful", " if that's okay", " when you are ready", ", no rush",
    " in one go", " this time", " again", ", robot", ", my friend", " because it is in the way", " because i need space",
    ", it is in the way", " so that i can see it", " before dinner", " nice and slowly", " today", ", can you", ", all right",
    ", if possible", ", would be nice", " without hurry", ", will you", " without touching anything else", ", i need the space",
)  # fmt: skip
#: What people say before they come to the point.
PREAMBLES: tuple[str, ...] = (
    "it is a mess here. ", "i am tidying up. ", "look. ", "listen up: ", "next task: ", "new job. ", "we are playing a game. ",
    "my desk is full. ", "i need some order. ", "time to clean up: ", "let's go on. ", "here is your task: ", "attention. ",
    "i have a job for you: ", "dinner is ready. ", "okay, next one. ", "one more thing. ", "i changed my mind. ", "good. ",
    "great, now ", "thanks. now ", "right. ", "so here is the plan. ", "my hands are full, ", "the kids are coming. ",
    "i am in a hurry, ", "we need to get going. ", "that was fine. ", "i have an idea: ", "just so you know, ",
)  # fmt: skip
_ONSETS = """
    b bl br c ch cl cr d dr f fl fr g gl gr h j k l m n p pl pr qu r s sc sh sk sl sm sn sp st str t th tr v w y z
"""
_VOWELS = "a e i o u ai ea ee oo ou oa ie"
_CODAS = "b ck d f g l ll m n nd ng nk nt p r rd rm rp rt s sh sk st t x ve te le ze"
_ENDINGS = ("", "", "", "le", "er", "ate", "ize", "en", "ify")
HELD_OUT_PREFIXES: tuple[str, ...] = (
    "kindly", "be so kind as to", "do me a favour and", "how about you", "the next thing to do is to", "machine,",
    "are you able to", "feel free to", "what i want is that you",
)  # fmt: skip
HELD_OUT_SUFFIXES: tuple[str, ...] = (
    " when you get a chance", " at once", ", buddy", " as soon as possible", ", i beg you", " with care",
)  # fmt: skip
NUMBERS: tuple[str, ...] = ("no", "one", "two", "three", "four", "five", "six", "seven")
ORDINALS: tuple[str, ...] = ("first", "second", "third", "fourth", "fifth")


def pick(dice: random.Random, alternatives: str) -> str:
    """One of the alternatives separated by ``|``."""
    options = alternatives.split("|")
    return options[int(dice.random() * len(options))]


def _weighted(dice: random.Random, choices: tuple[tuple[str, float], ...], power: float = 1.0) -> str:
    ball = dice.random() * sum(weight**power for _, weight in choices)
    for word, weight in choices:
        ball -= weight**power
        if ball <= 0:
            return word
    return choices[0][0]


def invented(dice: random.Random) -> str:
    """A word that could be English and is not: whoever reads it has only the rest of the sentence to go by."""
    while True:
        word = "".join(
            _letters(dice, _ONSETS) + _letters(dice, _VOWELS) + (_letters(dice, _CODAS) if dice.random() < 0.8 else "")
            for _ in range(1 if dice.random() < 0.65 else 2)
        ) + dice.choice(_ENDINGS)
        if word not in HELD_OUT_WORDS:
            return word


def _letters(dice: random.Random, choices: str) -> str:
    return dice.choice(choices.split())


@dataclass(slots=True)
class Voice:
    """How one speaker talks: which words, whether articles are dropped. Made anew for each example."""

    dice: random.Random
    held_out: bool = False  # the paraphrase split
    bare: bool = False  # drops articles
    plain: bool = False  # no synonyms for nouns and colours
    invents: bool = False  # uses words that nobody knows where the rest of the sentence says enough
    kinds: frozenset[str] = field(default_factory=frozenset)  # the kinds in view, to keep words unambiguous

    def noun(self, kind: Kind, *, plural: bool = False) -> str:
        """A word for a kind."""
        word: str = kind
        if self.held_out and kind in HELD_OUT_NOUNS and self.dice.random() < 0.07:
            word = HELD_OUT_NOUNS[kind][0]
        elif not self.plain:
            word = _weighted(self.dice, NOUNS[kind], self._evenness)
            if (word == "dish" and "plate" in self.kinds) or (word == "box" and self.kinds & {"tray", "drawer"}):
                word = kind
        return PLURALS.get(word, word + "s") if plural else word

    def color(self, color: Color) -> str:
        """A word for a colour."""
        if self.held_out and color in HELD_OUT_COLOR_WORDS and self.dice.random() < 0.04:
            return HELD_OUT_COLOR_WORDS[color][0]
        return color if self.plain else _weighted(self.dice, COLOR_WORDS[color], self._evenness)

    @property
    def _evenness(self) -> float:
        """What weights are raised to: training hears rare words more often than people say them."""
        return 0.6 if self.invents else 1.0

    @property
    def the(self) -> str:
        """The article with its space, or nothing."""
        return "" if self.bare else "the "
