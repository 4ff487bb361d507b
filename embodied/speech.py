"""What a plan that is a question or a refusal says to a person, when the planner gave no words of its own."""

from __future__ import annotations

from embodied.plan import Ask, Refuse


def sentence(speech: Ask | Refuse) -> str:
    """One sentence."""
    if isinstance(speech, Ask):
        return speech.question or f"there is more than one {speech.object}: which one do you mean?"
    if speech.text:
        return speech.text
    thing = f"the {speech.object}" if speech.object else "that"
    return {
        "absent": f"I do not see {thing if speech.object else 'what you name'} on the table",
        "unclear": "I do not understand what to do; say it in plain English, for example: "
        "put the red cube in the blue bowl",
        "unsafe": f"I will not do that{f' with {thing}' if speech.object else ''}: it is not safe",
        "impossible": f"{thing if speech.object else 'what you ask'} cannot be used that way",
        "out_of_reach": f"{thing} is out of reach",
    }[speech.reason]
