"""Nothing is kept in the product that the product does not use: no dead file, no dead name.

Both detectors go by names, not by scopes: a name is alive if any module of the product uses the same word. What they
find is dead; not everything that is dead is found. A use by a test is no use: a helper of tests belongs to the tests.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping

import pytest

from klagg.cli.main import COMMANDS
from tests.test_architecture import MODULES, document

ENTRY_POINTS = {
    *(place.partition(":")[0] for place in tomllib.loads(document("pyproject.toml"))["project"]["scripts"].values()),
    *(f"klagg.cli.{command}" for command in COMMANDS),  # imported by name when asked for
}
"""Modules that are started or loaded by their name; every `__main__` is one too."""

CALLED_BY_OTHERS = {
    "StatsCollector.collect": "prometheus-client calls it at each scrape",
    "Reader.connection_made": "asyncio calls it, being a Protocol's",
    "Reader.connection_lost": "asyncio calls it, being a Protocol's",
    "_Rate.render": "rich calls it for each frame of a progress bar",
}
"""Methods that only a library calls, and which."""


def name_of(path: str) -> str:
    """The dotted name of the module at PATH."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def mentioned(own: str, tree: ast.Module) -> Iterator[str]:
    """The dotted names that a module imports or writes in a string (for `python -m`), its own left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != own:
            yield node.value


def dead_files(modules: Mapping[str, ast.Module], entry_points: set[str]) -> list[str]:
    """The paths of modules that no other module imports and nobody starts."""
    alive = set(entry_points)
    for path, tree in modules.items():
        alive.update(mentioned(name_of(path), tree))
    packages = {name.rpartition(".")[0] for name in map(name_of, modules)}
    return [path for path in modules if name_of(path) not in alive | packages and not path.endswith("/__main__.py")]


def words_of(tree: ast.Module) -> Iterator[str]:
    """Every word that a module uses: names it reads, attributes, and what it imports under another name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):  # `import x as x` passes x on, which is no use
            yield from (alias.name for alias in node.names if alias.asname not in (None, alias.name))


def defined_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of every function, class, method and constant of a module."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield inner.lineno, f"{node.name}.{inner.name}"
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from ((node.lineno, name.id) for name in ast.walk(target) if isinstance(name, ast.Name))


def dead_names(modules: Mapping[str, ast.Module]) -> dict[str, str]:
    """Names that no module uses, each with its place."""
    used = {word for tree in modules.values() for word in words_of(tree)}
    return {
        name: f"{path}:{line}"
        for path, tree in modules.items()
        for line, name in defined_in(tree)
        if (word := name.rpartition(".")[2]) not in used and not word.startswith("__")
    }


def test_every_file_is_imported_or_started() -> None:
    assert dead_files(MODULES, ENTRY_POINTS) == []


def test_every_name_is_used() -> None:
    found = dead_names(MODULES)
    assert {name: place for name, place in found.items() if name not in CALLED_BY_OTHERS} == {}
    assert [name for name in CALLED_BY_OTHERS if name not in found] == [], "gone, or used by the product too"


def parsed(**sources: str) -> dict[str, ast.Module]:
    """Modules of a package `house`, by path."""
    return {f"house/{name}.py": ast.parse(source) for name, source in sources.items()}


@pytest.mark.parametrize(
    ("more", "dead"),
    [
        ({}, True),
        ({"other": "from house import planted"}, False),
        ({"other": "from house.planted import x"}, False),
        ({"other": "import house.planted as y"}, False),
        ({"other": "COMMAND = ['-m', 'house.planted']"}, False),
        ({"other": "planted = 1"}, True),
    ],
)
def test_a_planted_file_is_found(more: dict[str, str], dead: bool) -> None:
    modules = parsed(planted="import house.main\nNAME = 'house.planted'", main="", **more)
    assert ("house/planted.py" in dead_files(modules, {"house.main", "house.other"})) is dead
    assert "house/main.py" not in dead_files(modules, {"house.main", "house.other"})


def test_a_program_and_a_package_are_no_dead_files() -> None:
    assert dead_files(parsed(__init__="", __main__="", main=""), {"house.main"}) == []


@pytest.mark.parametrize(
    ("definition", "name"),
    [
        ("def planted(): pass", "planted"),
        ("async def planted(): pass", "planted"),
        ("class planted: pass", "planted"),
        ("planted: int = 1", "planted"),
        ("other, planted = 1, 2\nother", "planted"),
        ("class Used:\n    def planted(self): pass\nUsed()", "Used.planted"),
        ("from elsewhere import planted as planted\ndef planted(): pass", "planted"),
    ],
)
def test_a_planted_name_is_found(definition: str, name: str) -> None:
    assert list(dead_names(parsed(one=definition))) == [name]
    for use in ("planted()", "x.planted", "from house.one import planted as own", "def f(a: planted): pass\nf()"):
        assert dead_names(parsed(one=definition, two=use)) == {}
