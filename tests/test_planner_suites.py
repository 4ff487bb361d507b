"""The planner's suites: their data is sound, their figures are what they say, and failures can be looked at."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from embodied.confusion import FailurePage
from embodied.evaluation import PLANNER_SUITES, evaluate_planner
from embodied.free_suite import Suite, load_suite, plans_from_text
from embodied.grounding import Grounder
from embodied.language import examples
from embodied.language.view import look
from embodied.look_suites import nearest_m
from embodied.plan import Pick, Plan, Refuse
from embodied.plan_match import best_match, match_plan
from embodied.planner.jobs import Located
from embodied.planner_suites import REFUSALS, plan_questions, size_of
from embodied.score import Answer, Mark, Question, Report, front_camera
from embodied.scripted_planner import understand
from embodied.statistics import Rate
from hardware.camera_model import Frame
from hardware.errors import EmbodiedError, PlanError, UnreachableError
from sim.scene import Scene
from sim.world import World

SUITE = load_suite()
CASES = range(len(SUITE.cases))
KINDS_OF_QUESTION = {
    "put_in", "put_on", "pick", "relation", "push", "drawer", "button", "reach", "home", "chain", "group", "sort", "clear",
    "absent", "ambiguous", "impossible", "unsafe", "unclear", "out_of_reach",
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """No planner here looks at its picture, and small ones are drawn forty times quicker."""
    render = World.render
    monkeypatch.setattr(World, "render", lambda world, camera="front": render(world, camera, size=(64, 48)))


class Told:
    """Knows the truth of every question it may be asked, unless it is told to answer otherwise."""

    name = "told"
    scripted = True

    def __init__(self, questions: list[Question], answer: Plan | None = None) -> None:
        self._truths = {q.instruction: q.truth for q in questions}
        self._answer = answer

    def plan(self, instruction: str, frame: Frame) -> Plan:
        return self._answer or self._truths[instruction]


class Mute:
    """Finds no words."""

    name = "mute"
    scripted = False

    def plan(self, instruction: str, frame: Frame) -> Plan:
        raise PlanError("no answer came out")


class Shower:
    """Points at everything there is, whatever it is asked, and says yes to everything."""

    name = "shower"
    scripted = True

    def __init__(self, world: World, *, blind: bool = False) -> None:
        self._world, self._blind = world, blind

    def plan(self, instruction: str, frame: Frame) -> Plan:
        raise PlanError("it only shows")

    def locate(self, query: str, frame: Frame) -> tuple[Located, ...]:
        items = () if self._blind else look(self._world.scene_now(), frame.model).items
        return tuple(Located(item.label, item.foot, None) for item in items)

    def verify(self, question: str, frame: Frame) -> float:
        return 0.9


# The hand-written suite ----------------------------------------------------------------------------------------------


def test_the_hand_written_suite_is_large_and_varied() -> None:
    assert len(SUITE.cases) >= 130
    assert 25 <= len(SUITE.scenes) <= 40
    assert all(2 <= len(scene.objects) <= 8 for scene in SUITE.scenes.values())
    assert {case.scene for case in SUITE.cases} == set(SUITE.scenes)
    kinds = Counter(case.category for case in SUITE.cases)
    assert set(kinds) == KINDS_OF_QUESTION
    tags = Counter(tag for case in SUITE.cases for tag in case.tags)
    assert {"terse", "wordy", "polite", "indirect", "pronoun", "ordinal", "spatial", "comparative", "exclusion"} <= set(
        tags
    )
    asked = Counter((case.scene, case.instruction.lower()) for case in SUITE.cases)
    assert max(asked.values()) == 1
    assert {o.kind for scene in SUITE.scenes.values() for o in scene.objects} == {
        "cube", "cylinder", "ball", "bowl", "tray", "plate", "drawer", "button",
    }  # fmt: skip


@pytest.mark.parametrize("index", CASES)
def test_every_case_means_plans_that_the_arm_can_carry_out(index: int) -> None:
    asked = SUITE.question(index)
    grounder = Grounder(front_camera(asked.scene))
    possible = 0
    for plan in asked.truths:
        try:
            possible += plan.speech is not None or bool(grounder.check(plan))
        except (PlanError, UnreachableError) as error:
            reading = str(error)
    either_side = any(" beside " in text for text in SUITE.cases[index].plans)
    out_of_reach = asked.kind == "out_of_reach"
    assert possible == len(asked.truths) or (possible and (either_side or out_of_reach)), reading


def test_all_objects_of_the_suite_are_in_view_and_apart() -> None:
    for name, scene in SUITE.scenes.items():
        items = look(scene, front_camera(scene)).items
        assert len(items) == len(scene.objects), name
        assert all(0.02 < v < 0.98 for item in items for v in (*item.foot, *item.top)), name
        feet = [np.array(o.position) for o in scene.objects if not o.z]
        assert min(np.linalg.norm(a - b) for k, a in enumerate(feet) for b in feet[:k]) > 0.04, name


def test_training_cannot_have_seen_the_suite(rng: np.random.Generator) -> None:
    plain = {re.sub(r"\W+", " ", case.instruction.lower()).strip() for case in SUITE.cases}
    drawn = [
        re.sub(r"\W+", " ", e.instruction.lower()).strip()
        for scene in SUITE.scenes.values()
        for split in ("seen",)
        if not any(f"{o.color} {o.kind}" in _held_out() for o in scene.objects)
        for e in examples(scene, front_camera(scene), rng, 60, split=split)  # type: ignore[arg-type]
    ]
    assert len(drawn) > 500
    assert len(plain & set(drawn)) <= 0.03 * len(plain)


def _held_out() -> frozenset[str]:
    from embodied.language.holdout import HELD_OUT_LABELS

    return HELD_OUT_LABELS


def test_rules_that_read_plain_english_agree_where_they_understand() -> None:
    """The scripted planner knows no free language, but what it does understand must be what the truth says."""
    right = wrong = 0
    for index in CASES:
        asked = SUITE.question(index)
        plan = understand(asked.instruction, look(asked.scene, front_camera(asked.scene)))
        match, _ = best_match(plan, asked.truths, asked.scene, any_order=asked.order_free)
        right += match.exact
        wrong += plan.speech is None and not match.exact
    assert right >= 0.4 * len(CASES)
    # What is left are rules that are too simple: "except", "nearer", "the two leftmost", "don't touch".
    assert wrong <= 0.15 * len(CASES)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pick green_cube", "no 'green_cube' in view"),
        ("fling red_cube", "is no plan"),
        ("refuse boredom", "is no plan"),
        ("place near blue_bowl", "is no plan"),
        ("pick", "is no call"),
    ],
)
def test_a_wrong_plan_in_the_file_is_named(text: str, says: str) -> None:
    with pytest.raises(EmbodiedError, match=says):
        plans_from_text(text, SUITE.scenes["breakfast"])


def test_a_damaged_suite_is_named(tmp_path: Path) -> None:
    for text in ("{", '{"scenes": {}}', '{"scenes": {}, "cases": [{"scene": "x"}]}'):
        path = tmp_path / f"{len(text)}.json"
        path.write_text(text)
        with pytest.raises(EmbodiedError, match="suite"):
            load_suite(path)


# Comparing plans -----------------------------------------------------------------------------------------------------


def _plan(text: str, scene: str) -> Plan:
    return plans_from_text(text, SUITE.scenes[scene])[0]


def _match(got: str, wanted: str, scene: str, *, any_order: bool = False) -> tuple[bool, bool, bool, str]:
    match = match_plan(_plan(got, scene), _plan(wanted, scene), SUITE.scenes[scene], any_order=any_order)
    return match.skills, match.objects, match.exact, match.fault


def test_a_plan_is_compared_by_skills_objects_relations_and_points() -> None:
    both = "pick red_cube; place in red_tray; pick blue_cube; place in blue_tray"
    turned = "pick blue_cube; place in blue_tray; pick red_cube; place in red_tray"
    crossed = "pick red_cube; place in blue_tray; pick blue_cube; place in red_tray"
    assert _match(both, both, "post_office") == (True, True, True, "")
    assert _match(turned, both, "post_office", any_order=True) == (True, True, True, "")
    assert _match(turned, both, "post_office") == (True, False, False, "wrong object")
    assert _match(crossed, both, "post_office", any_order=True) == (True, False, False, "wrong object")
    assert _match("pick red_cube", both, "post_office")[3] == "too few steps"
    assert _match("push red_cube left", "push red_cube right", "post_office") == (
        True,
        True,
        False,
        "wrong side or place",
    )
    assert _match("pick red_cube; place on red_tray", "pick red_cube; place in red_tray", "post_office")[2]
    assert _match("refuse absent", "refuse unsafe", "post_office") == (True, False, False, "wrong reason")
    assert _match("ask", "pick red_cube", "post_office")[3] == "refused or asked needlessly"
    assert _match("pick red_cube", "ask", "post_office")[3] == "acted instead of refusing or asking"


def test_a_point_too_far_off_and_a_wrong_name_are_not_exact() -> None:
    scene = SUITE.scenes["nearly_empty"]
    truth = _plan("pick red_cube", "nearly_empty")
    call = truth.calls[0]
    assert isinstance(call, Pick)
    off = Plan(calls=(call.model_copy(update={"point": (call.point[0] + 0.06, call.point[1])}),))
    match = match_plan(off, truth, scene, any_order=False)
    assert match.objects
    assert not match.exact
    assert match.fault == "point too far off"
    assert match.distances_m[0] > 0.02
    misnamed = Plan(calls=(call.model_copy(update={"object": "blue ball"}),))
    assert not match_plan(misnamed, truth, scene, any_order=False).exact
    assert match_plan(None, truth, scene, any_order=False).fault == "no valid plan"


def test_any_of_several_truths_will_do() -> None:
    scene = SUITE.scenes["twins"]
    truths = [_plan(f"pick {name}; place in green_bowl", "twins") for name in ("blue_cube", "blue_cube_2")]
    for truth in truths:
        assert best_match(truth, truths, scene, any_order=False)[0].exact
    assert len(plans_from_text("pick red_cube; place beside black_cube", SUITE.scenes["four_cubes"])) == 4


# Suites --------------------------------------------------------------------------------------------------------------


def test_the_truth_is_right_in_every_plan_suite_and_the_report_is_json() -> None:
    for suite in ("seen", "free", "refuse"):
        asked = list(plan_questions(suite, 6, 3))
        report = evaluate_planner(lambda _, asked=asked: Told(asked), suite, 6, 3)  # type: ignore[misc]
        assert report.success.rate == 1.0, suite
        data = json.loads(json.dumps(report.to_json(), allow_nan=False))
        assert data["episodes"] == 6
        assert {"exact_plan", "valid", "right_skills", "right_objects", "latency_ms"} <= set(data["metrics"])
        assert data["rates"]["exact_plan"]["episodes"] == 6


def test_refusing_everything_and_refusing_nothing_are_both_found_out() -> None:
    asked = list(plan_questions("refuse", 20, 0))
    assert Counter(q.kind for q in asked if q.kind in REFUSALS) == dict.fromkeys(REFUSALS, 2)
    never = evaluate_planner(lambda _: Told(asked, Plan(calls=(Refuse(reason="absent"),))), "refuse", 20, 0)
    assert never.metrics["false_refusals"] == 1.0
    assert never.metrics["right_refusals"] < 0.5
    assert never.by["feasible"] == Rate(0, 10)
    eager = evaluate_planner(lambda _: Told(asked, _plan("pick red_cube", "breakfast")), "refuse", 20, 0)
    assert eager.metrics["false_refusals"] == 0.0
    assert eager.metrics["right_refusals"] == 0.0
    assert eager.by["feasible"] == Rate(10, 10)


def test_a_planner_without_an_answer_is_wrong_and_not_valid() -> None:
    report = evaluate_planner(lambda _: Mute(), "free", 4, 1)
    assert report.success.rate == report.metrics["valid"] == 0.0
    assert "median_cm" not in report.to_json()["metrics"]


def test_a_sample_of_the_free_suite_is_the_same_for_the_same_seed() -> None:
    first, again, other = ([q.index for q in plan_questions("free", 20, seed)] for seed in (1, 1, 2))
    assert first == again != other
    assert len(list(plan_questions("free", None, 0))) == size_of("free", None) == len(SUITE.cases)
    assert size_of("free", 1000) == len(SUITE.cases)
    assert size_of("seen", None) == 100


def test_saying_yes_to_everything_has_half_the_balanced_accuracy() -> None:
    report = evaluate_planner(Shower, "verify", 16, 0)
    assert report.metrics["yes_right"] == 1.0
    assert report.metrics["no_right"] == 0.0
    assert report.metrics["balanced_accuracy"] == 0.5
    assert 0.2 < report.success.rate < 0.8


def test_pointing_at_everything_and_at_nothing_are_both_found_out() -> None:
    answers: list[Answer] = []
    report = evaluate_planner(Shower, "point", 24, 0, on_answer=answers.append)
    assert report.metrics["found"] == 1.0
    assert report.metrics["absent_right"] == 0.0
    assert report.metrics["median_cm"] < 1e-6
    assert report.success.rate < 0.5
    assert {a.fault for a in answers if not a.right} == {"found too much", "found what is not there"}
    blind = evaluate_planner(lambda world: Shower(world, blind=True), "point", 24, 0)
    assert blind.metrics["found"] == 0.0
    assert blind.metrics["absent_right"] == 1.0


def test_each_point_is_held_against_the_nearest_object_of_its_name() -> None:
    camera = front_camera(Scene())
    truth = [("red cube", (0.4, 0.5)), ("red cube", (0.6, 0.5)), ("blue ball", (0.5, 0.6))]
    found = [
        Located("red cube", (0.61, 0.5), None),
        Located("blue ball", (0.5, 0.6), None),
        Located("red ball", (0.4, 0.5), None),
    ]
    first, second, third = nearest_m(truth, found, camera)
    assert first is None
    assert second is not None and 0.0 < second < 0.02
    assert third == 0.0


@pytest.mark.parametrize("suite", ["point", "verify"])
def test_a_planner_that_cannot_do_a_job_says_so(suite: str) -> None:
    with pytest.raises(PlanError, match=f"mute.*cannot do the job '{suite}'"):
        evaluate_planner(lambda _: Mute(), suite, 2, 0)


def test_an_unknown_suite_names_those_there_are() -> None:
    with pytest.raises(EmbodiedError, match="seen, paraphrase, novel, free, refuse, point, verify"):
        evaluate_planner(lambda _: Mute(), "nonsense", 2, 0)
    assert len(PLANNER_SUITES) == 7


# The page of failures ------------------------------------------------------------------------------------------------


def _answer(index: int, *, right: bool, kind: str = "pick") -> Answer:
    rgb = np.full((96, 128, 3), 90, np.uint8)
    marks = (Mark((0.3, 0.5), "1"),), (Mark((0.7, 0.5), "1"),)
    return Answer(
        index, kind, f"pick <it> up & go {index}", right, "pick the red cube", "pick the blue ball",
        "" if right else "wrong object", rgb, *marks, (("pick", "pick" if right else "refuse absent"),), ("terse",),
    )  # fmt: skip


def test_the_page_of_failures_shows_them_and_needs_nothing_else(tmp_path: Path) -> None:
    page = FailurePage(most_pictures=2)
    for index in range(5):
        page.add(_answer(index, right=index == 0))
    report = Report("free", 5, 0, Rate(1, 5), {"pick": Rate(1, 5)}, {"exact_plan": 0.2}, "told")
    path = page.write(tmp_path / "new", report)
    text = path.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 2
    assert "2 more are in the JSON lines" in text
    assert "pick &lt;it&gt; up &amp; go 1" in text
    assert "go 0" not in text
    assert "refuse absent" in text
    assert not re.search(r"(src|href)=[\"']?(https?:|/|[a-z]+\.)", text)
    lines = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["fault"] == "wrong object"


def test_a_suite_without_failures_has_a_page_too(tmp_path: Path) -> None:
    page = FailurePage()
    page.add(_answer(0, right=True))
    report = Report("seen", 1, 0, Rate(1, 1), {"pick": Rate(1, 1)}, subject="told")
    assert "0 of 1 wrong" in page.write(tmp_path, report).read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbodiedError, match="choose another folder"):
        page.write(tmp_path / "file" / "below", report)


def test_pictures_of_failures_show_ring_and_cross() -> None:
    from embodied.confusion import drawn

    picture = drawn(_answer(1, right=False)).astype(int)
    left, right = np.split(picture, 2, axis=1)
    green = lambda part: int(np.sum((part[..., 1] > part[..., 0] + 60) & (part[..., 1] > part[..., 2] + 30)))  # noqa: E731
    red = lambda part: int(np.sum((part[..., 0] > part[..., 1] + 60) & (part[..., 0] > part[..., 2] + 60)))  # noqa: E731
    assert green(left) > 50
    assert green(right) == 0
    assert red(right) > 50
    assert red(left) == 0


def test_the_suite_file_is_read_once() -> None:
    assert load_suite() is SUITE
    assert isinstance(SUITE, Suite)
