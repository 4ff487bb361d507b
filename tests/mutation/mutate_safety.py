"""Do the tests of the safety core notice when it is wrong? Changes one thing at a time and runs them.

    python tests/mutation/mutate_safety.py                    every mutant; takes hours
    python tests/mutation/mutate_safety.py --sample 60 --seed 0 --modules core limits shorten supervisor

A mutant is one changed comparison, boundary, operator, number or truth value in the safety core or the supervisor. Each
runs in a process of its own that sees the changed module instead of the file; nothing on disk is touched. It is run
against the tests that are about its module, which must pass with the module as it is, until one fails or they have taken
three times as long as they did then. Numbers below a ten-thousandth are left alone: they stand for rounding. Prints the
survivors and the score; the exit status is 1 when the score is below ``--least``, 2 when the tests do not pass to begin
with. A sample is run in random order: the score so far is that of a smaller sample.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.util
import io
import json
import math
import os
import random
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

# Loaded once, before the processes part. What is tested is not: each process imports it anew, one module changed.
import hypothesis.extra.numpy  # noqa: F401
import numpy  # noqa: F401
import pybullet  # noqa: F401
import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parents[2]
SAFETY, COLLISION, SUPERVISOR = (f"tests/test_{name}.py" for name in ("safety", "collision", "supervisor"))
#: module: the tests that are about it, those first that notice most.
TESTS = {
    "limits": [SAFETY], "core": [SAFETY], "shorten": [SAFETY, COLLISION], "collision": [COLLISION, SAFETY],
    "supervisor": [SUPERVISOR],
}  # fmt: skip
_ROUNDING = 1e-4
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum"}


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may be done to one node: in words, and the node that takes its place."""
    if isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            for other in _COMPARISONS[type(op)]:
                compare = copy.deepcopy(node)
                compare.ops[k] = other()
                yield "comparison", compare
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        binary = copy.deepcopy(node)
        binary.op = _OPERATORS[type(node.op)]()
        yield "operator", binary
    elif isinstance(node, ast.BoolOp):
        boolean = copy.deepcopy(node)
        boolean.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and/or", boolean
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "negation", copy.deepcopy(node.operand)
    elif isinstance(node, ast.IfExp):
        yield "branch", copy.deepcopy(node.body)
        yield "branch", copy.deepcopy(node.orelse)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "truth", ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not 0 < abs(node.value) < _ROUNDING:
        yield (
            "number",
            ast.Constant(node.value * 1.5 if isinstance(node.value, float) and node.value else node.value + 1),
        )
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in _CALLS:
        yield "call", ast.Name(_CALLS[node.id], ast.Load())
    elif isinstance(node, ast.Attribute) and node.attr in _CALLS and isinstance(node.value, ast.Name):
        yield "call", ast.Attribute(copy.deepcopy(node.value), _CALLS[node.attr], ast.Load())


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Every node outside annotations, messages and decorators, and where it hangs."""
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if field in ("annotation", "returns", "decorator_list", "bases"):
                continue
            if isinstance(value, ast.AST):
                yield parent, field, None, value
            elif isinstance(value, list):
                yield from ((parent, field, k, item) for k, item in enumerate(value) if isinstance(item, ast.AST))


def mutants(source: str) -> list[tuple[int, str, Callable[[], str]]]:
    """(line, what was changed into what, what writes the mutant's source) of every mutant of a module."""
    tree = ast.parse(source)
    silent = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr | ast.Raise | ast.AnnAssign | ast.FunctionDef | ast.ClassDef)
        for part in _not_behaviour(node)
        for inner in ast.walk(part)
    }
    found = []
    for parent, field, k, node in list(_places(tree)):
        if id(node) in silent:
            continue
        for kind, new in changes(node):
            words = f"{kind}: {ast.unparse(node)} -> {ast.unparse(new)}"
            found.append((getattr(node, "lineno", 0), words, partial(_written, tree, parent, field, k, new, node)))
    return found


def _written(tree: ast.AST, parent: ast.AST, field: str, k: int | None, new: ast.AST, old: ast.AST) -> str:
    _put(parent, field, k, new)
    text = ast.unparse(ast.fix_missing_locations(tree))
    _put(parent, field, k, old)
    return text


def _not_behaviour(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.JoinedStr | ast.Raise):
        return [node]
    if isinstance(node, ast.AnnAssign):
        return [node.annotation]
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list]
    assert isinstance(node, ast.FunctionDef)
    arguments = [*node.args.args, *node.args.kwonlyargs]
    parts = (node.returns, *node.decorator_list, *(a.annotation for a in arguments))
    return [part for part in parts if part is not None]


def _put(parent: ast.AST, field: str, k: int | None, node: ast.AST) -> None:
    if k is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[k] = node


def path_of(module: str) -> Path:
    """Where one of ``TESTS`` lies."""
    return ROOT / "hardware" / ("" if module == "supervisor" else "safety") / f"{module}.py"


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a text."""

    def __init__(self, module: str, source: str) -> None:
        self.path, self.source = path_of(module), source
        self.name = ".".join(self.path.relative_to(ROOT).with_suffix("").parts)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, str(self.path), "exec"), vars(module))  # noqa: S102


class _CheapFirst:
    """Orders the tests of a file by the time they took before, and notes the time that they take."""

    def __init__(self, took: Mapping[str, float]) -> None:
        self.before, self.took = took, dict[str, float]()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        files = list(dict.fromkeys(item.path for item in items))
        items.sort(key=lambda item: (files.index(item.path), self.before.get(item.nodeid, 0.0)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.took[report.nodeid] = self.took.get(report.nodeid, 0.0) + report.duration


def run_tests(module: str, source: str, limit_s: int, took: Mapping[str, float]) -> dict[str, float]:
    """The module's tests with this source: how long each took if all pass, nothing if one does not.

    In a process of its own, which may use ``limit_s`` of processor time; the tests that ``took`` little come first.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
        os.chdir(ROOT)
        sys.meta_path.insert(0, _Instead(module, source))
        order = _CheapFirst(took)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            status = pytest.main(
                ["-x", "-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", *TESTS[module]], [order]
            )
        if status == 0:
            os.write(theirs, json.dumps(order.took).encode())
        os._exit(0)
    os.close(theirs)
    with open(ours, encoding="utf-8") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return dict(json.loads(text)) if text else {}


def _processor_s() -> float:
    """What the processes that have ended took of the processor's time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def draw(modules: Sequence[str], sample: int, seed: int) -> list[tuple[str, int, str, Callable[[], str]]]:
    """(module, line, what was changed into what, what writes its source) of some mutants, or of all if ``sample`` is 0."""
    sources = {module: path_of(module).read_text(encoding="utf-8") for module in modules}
    every = [(module, *mutant) for module, source in sources.items() for mutant in mutants(source)]
    print(f"{len(every)} mutants, {sample or len(every)} to run", flush=True)
    return random.Random(seed).sample(every, sample) if sample else every


def main() -> int:
    """Make the mutants, run them, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="so many mutants, drawn with --seed; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modules", nargs="+", choices=list(TESTS), default=list(TESTS))
    parser.add_argument(
        "--limit", type=int, default=60, help="seconds of processor time that a module's tests may take"
    )
    parser.add_argument("--least", type=float, default=0.9, help="the score below which the exit status is 1")
    options = parser.parse_args()
    # A test that fails need not look for the smallest example.
    settings.register_profile(
        "mutation", derandomize=True, deadline=None, max_examples=50, phases=[Phase.explicit, Phase.generate]
    )
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # loading them takes longer than most tests
    took: dict[str, float] = {}
    limits: dict[str, int] = {}
    for module in options.modules:
        before = _processor_s()
        took |= (passed := run_tests(module, path_of(module).read_text(encoding="utf-8"), options.limit, took))
        limits[module] = math.ceil(3.0 * (_processor_s() - before))
        if not passed:
            print(f"the tests of {module} do not pass, or take more than {options.limit} s: {' '.join(TESTS[module])}")
            return 2
    chosen, alive = draw(options.modules, options.sample, options.seed), 0
    for k, (module, line, words, write) in enumerate(chosen, 1):
        if run_tests(module, write(), limits[module], took):
            alive += 1
            print(f"survived: {module}:{line} {words}", flush=True)
        if k % 10 == 0:
            print(f"{k} run, {alive} survived", flush=True)
    score = 1.0 - alive / max(len(chosen), 1)
    print(f"score {score:.3f}: {len(chosen) - alive} of {len(chosen)} mutants were noticed (seed {options.seed})")
    return 0 if score >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
