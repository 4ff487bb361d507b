"""The structure that makes the code readable is checked like any other promise."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("hardware", "sim", "policies", "embodied")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = ("pybullet", "torch", "transformers")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def _modules(package: str) -> list[str]:
    found = importlib.import_module(package)
    return [package, *(m.name for m in pkgutil.walk_packages(found.__path__, f"{package}."))]


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its dotted name: ``torch.load``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def test_imports_only_point_left() -> None:
    result = _python("from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))")
    assert result.returncode == 0, result.stdout + result.stderr


def test_help_is_light() -> None:
    code = (
        "import sys\n"
        "from embodied.cli import main\n"
        "sys.argv = ['embodied', '--help']\n"
        "try:\n    status = main()\n"
        "except SystemExit as stop:\n    status = stop.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])\n"
        "raise SystemExit(status or 0)\n"
    )
    result = _python(code)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "LOADED []" in result.stdout, result.stdout[-300:]
    assert "run" in result.stdout


@pytest.mark.parametrize(("package", "forbidden"), [("hardware", HEAVY), ("sim", ("torch", "transformers"))])
def test_a_layer_loads_without_what_it_must_not_know(package: str, forbidden: tuple[str, ...]) -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {_modules(package)!r}:\n    importlib.import_module(name)\n"
        f"print('LOADED', [name for name in {forbidden!r} if name in sys.modules])\n"
    )
    result = _python(code)
    assert result.returncode == 0, result.stderr
    assert "LOADED []" in result.stdout, result.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_all_equals_reality(package: str) -> None:
    """Where a module says what is public, it says all of it, once, and nothing that is not there."""
    for name in _modules(package):
        if name.endswith(".__main__"):
            continue
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None)
        if public is None:
            continue
        assert len(public) == len(set(public)), f"{name}.__all__ has a name twice"
        missing = [entry for entry in public if not hasattr(module, entry)]
        assert not missing, f"{name}.__all__ names what is not there: {missing}"
        forgotten = sorted(_defined_here(module) - set(public))
        assert not forgotten, f"{name}.__all__ forgets {forgotten}; add them or start them with an underscore"


def _defined_here(module: ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_loaded_can_run_code(path: Path) -> None:
    """Weights, scenes, plans and skills are data: no file and no model output is ever executed."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert not imported & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    for name, call in _calls(tree):
        options = {keyword.arg: keyword.value for keyword in call.keywords}
        where = f"{path.name}:{call.lineno}"
        assert name not in {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}, f"{where} calls {name}"
        assert not _is_true(options.get("shell")), f"{where} runs a shell"
        assert not _is_true(options.get("allow_pickle")), f"{where} allows pickle"
        trust = options.get("trust_remote_code", ast.Constant(False))
        assert isinstance(trust, ast.Constant) and trust.value is False, f"{where} may run a stranger's code"
        if name.endswith("torch.load"):
            assert _is_true(options.get("weights_only")), f"{where}: torch.load without weights_only=True"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_randomness_is_passed_not_global(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    allowed = {"random.Random", "np.random.default_rng", "np.random.Generator", "np.random.SeedSequence"}
    for name, call in _calls(tree):
        if re.fullmatch(r"(random|np\.random|numpy\.random)\.\w+", name):
            assert name in allowed, f"{path.name}:{call.lineno} draws from a global generator: {name}"


def test_names_say_what_is_inside() -> None:
    empty = {"util", "utils", "common", "helper", "helpers", "misc", "manager", "managers"}
    folders = (*PACKAGES, "tests", "benchmarks", "notebooks")
    paths = [path for folder in folders if (ROOT / folder).is_dir() for path in (ROOT / folder).rglob("*")]
    bad = [path for path in paths if "__pycache__" not in path.parts and empty & set(path.stem.lower().split("_"))]
    assert not bad, f"rename {[str(path.relative_to(ROOT)) for path in bad]} after what they hold"


def test_no_path_of_one_machine() -> None:
    pattern = re.compile(r"(?<![\w.~-])/(?:home|root|Users|work|mnt)/")
    folders = (*PACKAGES, "tests", "docs", "notebooks", "benchmarks", ".ci")
    files = [path for folder in folders if (ROOT / folder).is_dir() for path in (ROOT / folder).rglob("*")]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    for path in files:
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".txt", ".json", ".ipynb", ".urdf", ""}:
            found = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
            assert found is None, f"{path.relative_to(ROOT)} names a path of one machine: {found.group()}"


@pytest.mark.parametrize(("folder", "limit_mb"), [("policies/weights", 30), ("embodied/weights", 30)])
def test_shipped_weights_stay_small(folder: str, limit_mb: int) -> None:
    size = sum(path.stat().st_size for path in (ROOT / folder).rglob("*") if path.is_file())
    assert size <= limit_mb * 1e6, f"{folder} holds {size / 1e6:.1f} MB"
