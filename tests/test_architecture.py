"""The rules of the house that no linter holds: sizes, who may catch everything, where drivers and SQL live, docs."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from klagg import settings
from klagg.wire.keys import CLOCK_KEY, Keys, heartbeat_key

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("klagg", "ingest", "aggregator", "gateway", "writers", "auditors")
MODULES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
"""Every module of the packages, by its path, parsed."""

EACH_MODULE = pytest.mark.parametrize("path", MODULES)

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 75

CATCH_EVERYTHING = {"klagg/process/service.py", "klagg/cli/main.py"}
"""The outermost frames of a process, which say what happened and end."""

DRIVERS = {"redis": "klagg/drivers/redis_streams.py", "psycopg": "klagg/drivers/postgres.py"}

SQL = re.compile(
    r"\s*(?:SELECT\s+\S+.*\s+FROM|SELECT\s+\w+\(|INSERT\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM|MERGE\s+INTO|COPY\s+\S+\s+"
    r"|WITH\s+\S+\s+AS|TRUNCATE\s|CREATE\s+(?:TABLE|INDEX|UNIQUE|EXTENSION|DATABASE|ROLE|USER|SCHEMA|TYPE|FUNCTION|VIEW"
    r"|MATERIALIZED|TEMP)|ALTER\s+(?:TABLE|ROLE|USER|DATABASE|SYSTEM|EXTENSION)|DROP\s+\w+\s+\S+|GRANT\s+\S+\s+ON|BEGIN\s*;"
    r"|COMMIT\s*;|ROLLBACK\s*;|SET\s+(?:LOCAL|SESSION)\s)",
    re.IGNORECASE | re.DOTALL,
)
"""How a statement begins; English sentences that begin with one of these verbs do not go on like this."""

STATEMENTS_IN_PLACE = {"klagg/embedded/postgres_server.py"}
"""One line each, given to psql as the superuser of a server that klagg itself runs."""

ADMINISTRATION = re.compile(r"(?:CREATE|ALTER|DROP) (?:DATABASE|EXTENSION) ")
"""All that such a line may do."""


def texts_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string literal but docstrings, with its line; of an f-string its first part."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and node not in docstrings:
            text = node.value if isinstance(node.value, str) else node.value.decode(errors="replace")
            yield node.lineno, text


def reraises(handler: ast.ExceptHandler) -> bool:
    """Whether a handler only tidies up: its last statement raises the same error again."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def broad(handler: ast.ExceptHandler) -> bool:
    """Whether a handler catches everything."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in BROAD) for kind in kinds)


BROAD = {"Exception", "BaseException"}


def imported(tree: ast.Module) -> Iterator[str]:
    """The top-level names that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_the_walk_finds_the_modules() -> None:
    """A rule over no files would hold for ever."""
    assert {"klagg/wire/entries.py", "ingest/service.py", "aggregator/core.py", "writers/store.py"} <= set(MODULES)


@EACH_MODULE
def test_a_file_is_a_sitting_long(path: str) -> None:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES_MAX, f"{path} has {lines} lines"


@EACH_MODULE
def test_a_function_is_a_screen_long(path: str) -> None:
    long = {
        node.name: length
        for node in ast.walk(MODULES[path])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert long == {}


@EACH_MODULE
def test_only_the_outermost_frames_catch_everything(path: str) -> None:
    """Elsewhere everything may be caught only to tidy up and raise it again."""
    caught = [
        node.lineno
        for node in ast.walk(MODULES[path])
        if isinstance(node, ast.ExceptHandler) and broad(node) and not reraises(node)
    ]
    assert caught == [] or path in CATCH_EVERYTHING, f"{path} catches everything in lines {caught}"


@EACH_MODULE
def test_one_module_owns_each_driver(path: str) -> None:
    for driver, owner in DRIVERS.items():
        assert path == owner or driver not in set(imported(MODULES[path]))


def test_the_owners_do_import_their_drivers() -> None:
    for driver, owner in DRIVERS.items():
        assert driver in set(imported(MODULES[owner]))


@EACH_MODULE
def test_statements_stand_in_sql_files(path: str) -> None:
    found = [(line, text[:60]) for line, text in texts_of(MODULES[path]) if SQL.match(text)]
    assert found == [] or path in STATEMENTS_IN_PLACE
    assert all(ADMINISTRATION.match(text) for _, text in found)


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("SELECT 1 FROM klines", True),
        ("\n  select count(*)\n  from klines", True),
        ("SELECT now()", True),
        ("INSERT INTO klines VALUES (1)", True),
        ("delete from klines", True),
        ("CREATE TABLE x ()", True),
        ("WITH newer AS (", True),
        ("update klines set x = 1", True),
        ("DROP TABLE klines", True),
        ("copy klines from stdin", True),
        ("with what was left", False),
        ("update of a bar", False),
        ("select a symbol", False),
        ("delete", False),
        ("create the environment", False),
        ("SET", False),
        ("EXEC", False),
        ("begin at the start", False),
    ],
)
def test_statements_are_told_from_sentences(text: str, statement: bool) -> None:
    assert bool(SQL.match(text)) is statement


def test_there_are_sql_files() -> None:
    assert any((ROOT / "writers").glob("*.sql"))


def names_of_settings() -> list[tuple[str, str]]:
    """(section, name) of every setting; the section of those at the top is empty."""
    defaults = settings.Settings()
    found = []
    for each in fields(defaults):
        value = getattr(defaults, each.name)
        inner = [(each.name, part.name) for part in fields(value)] if is_dataclass(value) else [("", each.name)]
        found += inner
    return found


def reads_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(what, name) of every attribute that a module reads: `config.redis.url` gives (redis, url) and (config, redis).

    Sections go under other names too (`config`, `self._config`): `what` is the last name before the dot.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = node.value
            yield (owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")), node.attr


READ = {
    pair
    for path, tree in MODULES.items()
    if path != "klagg/settings.py"  # its checks are no use of a setting
    for pair in reads_of(tree)
}


@pytest.mark.parametrize(("section", "name"), names_of_settings(), ids=lambda each: each or "top")
def test_every_setting_is_read(section: str, name: str) -> None:
    """A setting that nobody reads promises what does not happen."""
    owners = {section, "config", "_config", "settings", "_settings"}
    assert any(owner in owners for owner, attribute in READ if attribute == name), f"{section}.{name} is read nowhere"


def test_an_unread_setting_would_be_found() -> None:
    assert not any(attribute == "no_such_setting" for _, attribute in READ)
    assert ("redis", "url") in READ


def keys() -> list[str]:
    """Every key of the contract as the docs write it."""
    shard = [f"{name}:{{n}}" for name, value in vars(Keys).items() if isinstance(value, property)]
    return [*shard, CLOCK_KEY, heartbeat_key("<process>")]


def document(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("key", keys())
def test_every_key_is_in_the_architecture(key: str) -> None:
    assert f"`{key}`" in document("ARCHITECTURE.md")


SCRIPTS = tomllib.loads(document("pyproject.toml"))["project"]["scripts"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_console_script_is_in_the_documents(script: str) -> None:
    together = "\n".join(map(document, ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")))
    assert re.search(rf"(?<![\w-]){re.escape(script)}(?![\w-])", together)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_its_place_in_the_architecture(package: str) -> None:
    assert f"`{package}/`" in document("ARCHITECTURE.md")


@pytest.mark.parametrize("target", ["up", "check", "test"])
def test_every_make_target_that_people_use_is_in_the_documents(target: str) -> None:
    assert re.search(rf"^{target}:", document("Makefile"), re.MULTILINE)
    assert f"make {target}" in document("README.md") + document("CONTRIBUTING.md")


def test_continuous_integration_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/bin/bash"
    assert lines[1] == "set -euo pipefail"
    assert lines[-1] == "make test"
    assert sum("make" in line for line in lines) == 1
