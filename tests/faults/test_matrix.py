"""The 54 faults: each row of ``docs/faults.md`` with its fault off (nothing reacts) and on (what was promised happens)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite(
    "lab", "bus_rows", "servo_rows", "command_rows", "policy_rows", "planner_rows", "system_rows"
)

import bus_rows  # noqa: E402, F401 (importing a module registers its rows)
import command_rows  # noqa: E402, F401
import planner_rows  # noqa: E402
import policy_rows  # noqa: E402, F401
import servo_rows  # noqa: E402, F401
import system_rows  # noqa: E402, F401
from lab import ROWS, Lab, Row  # noqa: E402

from hardware.emulator.faults import WORDS  # noqa: E402

COUNT = 54
_LINE = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.M)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    yield
    planner_rows.clear_desk()


@pytest.mark.parametrize("row", [pytest.param(ROWS[number], id=ROWS[number].id) for number in sorted(ROWS)])
def test_fault(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for on in (False, True):
        folder = tmp_path / ("on" if on else "off")
        folder.mkdir()
        with monkeypatch.context() as patch:
            row.experiment(Lab(folder, patch, on), on)


def _table(repository: Path) -> dict[int, tuple[str, str]]:
    """Title and modules of every row of the document."""
    text = (repository / "docs" / "faults.md").read_text(encoding="utf-8")
    return {int(number): (title.strip(), where) for number, title, _, where, _ in _LINE.findall(text)}


def test_the_table_and_the_rows_are_the_same(repository: Path) -> None:
    assert {number: title for number, (title, _) in _table(repository).items()} == {
        number: row.title for number, row in ROWS.items()
    }
    assert sorted(ROWS) == list(range(1, COUNT + 1))


def test_the_modules_in_the_table_exist(repository: Path) -> None:
    for number, (_, where) in _table(repository).items():
        modules = re.findall(r"`([^`]+)`", where)
        assert modules, f"row {number} names no module"
        for module in modules:
            assert (repository / module).exists(), f"row {number}: there is no {module}"


def test_the_words_of_the_fault_plan_name_rows_of_the_table() -> None:
    assert all(1 <= number <= COUNT for word in WORDS.values() for number in word.rows)
    assert all(word.rows for word in WORDS.values())
