"""What the documentation says is true: its commands exist, its files exist, its examples run."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, flags=re.M))


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def _commands(text: str) -> list[list[str]]:
    joined = "\n".join(_blocks(text, "bash")).replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


@cache
def _help_of(*subcommands: str) -> str:
    code = "import sys; from embodied.cli import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", code, *subcommands, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, f"embodied {' '.join(subcommands)} --help: {result.stdout}{result.stderr}"
    return result.stdout


COMMANDS = [(page.name, words) for page in PAGES for words in _commands(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(words)[:60] for _, words in COMMANDS])
def test_documented_command_exists(page: str, words: list[str]) -> None:
    words = [Path(words[0]).name, *words[1:]]
    if words[0] == "make":
        wanted = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        assert set(wanted) <= TARGETS, f"{page}: the Makefile has no {wanted}"
    elif words[0] == "embodied":
        # Two-word commands (`eval policy`) are those whose first word's help lists the second.
        subcommands = words[1:2]
        if (
            words[2:]
            and re.fullmatch(r"[a-z]+", words[2])
            and words[1] in {"camera", "data", "eval", "policy", "robot", "train"}
        ):
            subcommands = words[1:3]
        text = _help_of(*subcommands)
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"{re.escape(option.split('=')[0])}\b", text), f"{page}: {subcommands} has no {option}"
    else:
        assert words[0] in {"git", "cd", "python", "pytest"}, f"{page}: the test does not know how to check {words[0]}"


def test_makefile_is_short_and_explains_itself() -> None:
    assert len(TARGETS) <= 10
    unexplained = [name for name in TARGETS if not re.search(rf"^{name}:.*## \S", MAKEFILE, flags=re.M)]
    assert not unexplained
    assert {"run", "test"} <= TARGETS


def _file_map() -> list[str]:
    """Paths of the README's tree: two spaces of indentation per level, words after two or more spaces."""
    section = README.split("## File map", 1)[1]
    (tree, *_) = _blocks(section, "text")
    paths, parents = [], []
    for line in tree.splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        name, words = re.fullmatch(r"\s*(\S+)(?:\s{2,}(.*))?", line).groups()
        assert words, f"the file map says nothing about {name}"
        parents[depth:] = [name]
        paths.append("".join(parents[:depth]) + name)
    return paths


def test_file_map_lists_real_files() -> None:
    missing = [path for path in _file_map() if not (ROOT / path).exists()]
    assert not missing, f"the README's file map names what does not exist: {missing}"


def test_file_map_misses_no_part() -> None:
    mapped = set(_file_map())
    folders = {
        f"{init.parent.relative_to(ROOT)}/"
        for package in ("hardware", "sim", "policies", "embodied")
        for init in (ROOT / package).rglob("__init__.py")
    }
    folders |= {f"{name}/" for name in ("scenes", "tests", "docs", "notebooks", "benchmarks") if (ROOT / name).is_dir()}
    assert folders <= mapped, f"add to the README's file map: {sorted(folders - mapped)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


@pytest.mark.parametrize("code", _blocks(README, "python"), ids=lambda code: code.strip().splitlines()[0][:40])
def test_python_example_names_what_exists(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert importlib.util.find_spec(alias.name), f"no module {alias.name}"


@pytest.mark.slow
@pytest.mark.parametrize("code", _blocks(README, "python"), ids=lambda code: code.strip().splitlines()[0][:40])
def test_python_example_runs(code: str) -> None:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


def test_scene_example_is_a_scene(tmp_path: Path) -> None:
    from sim.scene import Scene

    examples = [
        *_blocks(README, "json"),
        *(path.read_text(encoding="utf-8") for path in (ROOT / "scenes").glob("*.json")),
    ]
    assert len(examples) >= 2
    for text in examples:
        path = tmp_path / "scene.json"
        path.write_text(text, encoding="utf-8")
        assert Scene.load(path).objects


def test_every_package_folder_is_installed() -> None:
    """A folder of modules without __init__.py would be left out of the built distribution."""
    for package in ("hardware", "sim", "policies", "embodied"):
        for path in (ROOT / package).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent.relative_to(ROOT)} has no __init__.py"


def _dependencies() -> list[Requirement]:
    section = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.scripts]")[0]
    quoted = re.findall(r'^\s+"([A-Za-z][\w.-]*[<>=!~][^"]*)",?$|"([a-z][\w-]*>=[\d.]+)"', section, flags=re.M)
    return [Requirement(first or second) for first, second in quoted if "setuptools" not in (first or second)]


def test_constraints_pin_every_dependency_inside_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    dependencies = _dependencies()
    assert len(dependencies) > 15
    for dependency in dependencies:
        name = dependency.name.lower().replace("_", "-")
        versions = [next(iter(pin.specifier)).version for pin in pins if pin.name.lower().replace("_", "-") == name]
        assert versions, f"constraints.txt does not pin {dependency.name}"
        assert all(version in dependency.specifier for version in versions), f"{dependency} excludes {versions}"


def test_the_command_leads_to_code() -> None:
    (command,) = distribution("embodied").entry_points.select(group="console_scripts", name="embodied")
    assert callable(command.load())


def test_gymnasium_example_runs() -> None:
    (code,) = [code for code in _blocks(README, "python") if "gymnasium" in code]
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
