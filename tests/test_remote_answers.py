"""What remote models are told, and how what they write becomes a plan or a reason why it is none."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied.plan import MAX_CALLS, Ask, Pick, Plan, Refuse
from embodied.remote.answers import read_answer
from embodied.remote.prompts import plan_schema, system_prompt
from embodied.remote.settings import Points
from hardware.errors import PlanError


@pytest.mark.parametrize("points", get_args(Points))
def test_the_schema_is_one_that_strict_servers_take(points: Points) -> None:
    schema = plan_schema(points, 640, 480)

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            assert not {"oneOf", "prefixItems", "default", "discriminator"} & set(node)
            if "properties" in node:
                assert node["required"] == list(node["properties"])
                assert node["additionalProperties"] is False
        for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(inner)

    walk(schema)
    assert schema["properties"]["calls"]["maxItems"] == MAX_CALLS
    import jsonschema

    x = [1, 1] if points == "unit" else [40, 60]
    place = {"skill": "place", "relation": "on", "object": "red cube", "point": x, "top": None}
    jsonschema.validate({"calls": [place, {"skill": "home"}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"calls": [{"skill": "throw", "object": "red cube", "point": x}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"calls": [{"skill": "home"}] * (MAX_CALLS + 1)}, schema)


def test_the_prompt_names_every_skill_and_its_own_example_is_a_valid_answer() -> None:
    for points in get_args(Points):
        told = system_prompt(points, 640, 480)
        for skill in ("reach", "pick", "place", "push", "open", "close", "press", "home", "ask", "refuse"):
            assert f'"skill": "{skill}"' in told
        plan = read_answer(told.rpartition("format: ")[2], points, 640, 480)
        assert isinstance(plan.calls[0], Pick)
        assert plan.calls[0].point == pytest.approx((0.43, 0.61), abs=0.002)


PICK = '{"skill": "pick", "object": "red cube", "point": [430, 615]}'


def read(text: str, points: Points = "rel1000_xy", **more: Any) -> Plan:
    return read_answer(text, points, 640, 480, **more)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"calls": [{PICK}]}}',
        f"[{PICK}]",
        PICK,
        f"```json\n[{PICK}]\n```",
        f"Sure! Here is the plan [as JSON]:\n{{'x'}} [{PICK},]\nDone.",
        '{"calls": [{"skill": "pick", "object": "The  Red Cube", "point": [430, 615,],},],}',
        '<think>press {"calls": [{"skill": "press", "object": "button", "point": [1, 1]}]}</think>' + PICK,
        'thoughts whose tag the template opened {"calls": 1}</think>' + PICK,
        '[{"skill": "pick", "label": "red cube", "object": "red cube", "point_2d": [430.0, 615], "confidence": 0.9}]',
        '{"skill": "Pick", "label": "red cube", "point_2d": [430, 615], "direction": "", "relation": null}',
        '{"name": "pick", "arguments": {"object": "red cube", "point": {"x": 430, "y": 615}}}',
        f"{PICK}",
        f"The plan: [{PICK}]. To repeat: [{PICK}]",
    ],
)
def test_forms_that_models_use_are_read(text: str) -> None:
    assert read(text).calls == (Pick(object="red cube", point=(0.43, 0.615)),)


def test_one_call_per_line_is_a_plan() -> None:
    assert [c.skill for c in read(PICK + '\n{"skill": "home"}').calls] == ["pick", "home"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "did not answer with a plan"),
        ("I would pick up the cube.", "did not answer with a plan"),
        ('{"calls": []}', "calls"),
        (f'{{"calls": [{PICK}, {{"skill": "pla', "half a plan"),
        (f"<think>{PICK}", "did not answer with a plan"),
        ('{"calls": [{"skill": "throw", "object": "cube", "point": [1, 2]}]}', "is no skill"),
        ('{"calls": [{"skill": "exec", "code": "rm -rf /"}]}', "is no skill"),
        ('{"calls": [{"skill": ["pick"], "object": "cube", "point": [1, 2]}]}', "is no skill"),
        ('{"calls": [{"skill": "pick", "object": "cube", "point": [1, 2], "max_speed": 9}]}', "max_speed"),
        ('{"calls": [{"skill": "home", "skip_confirmation": true}]}', "skip_confirmation"),
        ('{"calls": [{"skill": "pick", "object": "cube"}]}', "point"),
        ('{"calls": [{"skill": "pick", "object": "cube", "point": [1001, 1200]}]}', "outside the picture"),
        ('{"calls": [{"skill": "pick", "object": "cube", "point": [-9, 10]}]}', "outside the picture"),
        ('{"calls": [{"skill": "pick", "object": "cube", "point": [NaN, 10]}]}', "not a number"),
        ('{"calls": [{"skill": "pick", "object": "cube", "point": [1e999, 10]}]}', "not finite"),
        ('{"calls": [{"skill": "pick", "object": "cube", "point": [1' + "0" * 400 + ", 10]}]}", "absurdly large"),
        ('{"calls": [{"skill": "pick", "object": "cube", "point": [true, 10]}]}', "two numbers"),
        ('{"calls": [{"skill": "pick", "object": "cube", "point": ["1", 10]}]}', "two numbers"),
        ('{"calls": [{"skill": "pick", "object": "cube", "point": [1, 2, 3]}]}', "where a point"),
        ('{"calls": [{"skill": "pick", "object": "cube; rm -rf /", "point": [1, 2]}]}', "letters and digits"),
        ('{"calls": [{"skill": "pick", "object": "<script>", "point": [1, 2]}]}', "letters and digits"),
        ('{"calls": [{"skill": "pick", "object": "' + "cube " * 20 + '", "point": [1, 2]}]}', "a name is short"),
        ('{"calls": [{"skill": "pick", "object": "", "point": [1, 2]}]}', "a name is short"),
        ('{"calls": [{"skill": "pick", "skill": "press", "object": "b", "point": [1, 2]}]}', "same key twice"),
        ('{"calls": [{"skill": "pick", "action": "press", "object": "b", "point": [1, 2]}]}', "twice"),
        (f'[{PICK}] or rather [{{"skill": "home"}}]', "2 different plans"),
        ('{"calls": ' + "[" * 50 + "]" * 50 + "}", "nested deeper"),
        ('{"calls": "home"}', "not a list"),
        ('{"calls": ["home"]}', "where a skill call should be"),
        ('{"calls": [{"skill": "home"]}', "brackets do not match"),
        ("[" + ", ".join([PICK] * 10_000) + "]", "65536"),
        ("[" + ", ".join(['{"skill": "home"}'] * 2000) + "]", "2000 steps"),
        ("[" + ", ".join(['{"skill": "home"}'] * 13) + "]", "13 steps"),
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        read(text)


@pytest.mark.parametrize("piece", ["<think>", "[", "{", '"', "[]", "[{}],", "\\", ",", "</think><think>"])
def test_no_answer_takes_long_to_read(piece: str) -> None:
    began = time.process_time()
    with pytest.raises(PlanError):
        read(piece * (60_000 // len(piece)))
    assert time.process_time() - began < 1.0


def test_an_answer_that_was_cut_off_counts_for_nothing_even_when_it_parses() -> None:
    with pytest.raises(PlanError, match="half a plan"):
        read(PICK, finish="length")


def test_words_for_the_user_cannot_act_on_a_terminal() -> None:
    plan = read('{"skill": "ask", "object": "cube", "question": "Which\\u001b[2J [link=x]one?\\n<b>`x`"}')
    assert plan.speech == Ask(object="cube", question="Which 2J link=x one? b x")
    refusal = read(json.dumps({"skill": "refuse", "reason": "unsafe", "text": "a" * 999})).speech
    assert refusal == Refuse(reason="unsafe", text="a" * 300)


@settings(max_examples=60)
@given(st.text(st.characters(codec="ascii"), max_size=60) | st.text('{}[]",: \\\n' + "calskip", max_size=60))
def test_any_text_is_a_plan_or_a_plan_error(text: str) -> None:
    for answer in (text, f'{{"calls": [{text}]}}', f"[{PICK}, {text}"):
        with suppress(PlanError):
            assert isinstance(read(answer), Plan)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(["skill", "object", "point", "relation", "top", "direction", "arguments", "name"]), json_values)
def test_a_valid_plan_with_one_field_replaced_is_a_plan_or_a_plan_error(field: str, value: Any) -> None:
    call = {"skill": "place", "relation": "in", "object": "blue bowl", "point": [700, 480], field: value}
    try:
        plan = read(json.dumps({"calls": [json.loads(PICK), call]}))
    except PlanError:
        return
    assert len(plan.calls) == 2
