"""The rules of the house that no linter holds: long functions, who may catch everything, where drivers and SQL are."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from klagg import settings
from klagg.wire.keys import CLOCK_KEY, EXCHANGE_INFO_KEY, WEIGHTS_KEY, Keys, heartbeat_key
from tests.conftest import SLOW

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("klagg", "ingest", "aggregator", "gateway", "writers", "auditors")
MODULES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
"""Every module of the packages, by its path, parsed."""

FUNCTION_LINES_MAX = 55
"""The longest function of the packages. It may only fall: whoever shortens that function lowers the number too."""

CATCH_EVERYTHING = {"klagg/process/service.py"}
"""The outermost frame of a process, which says what happened and ends."""

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


def lengths_of(modules: Mapping[str, ast.Module]) -> dict[str, int]:
    """The lines of every function, by `path:line name`."""
    return {
        f"{path}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_no_function_is_longer_than_the_longest_and_the_longest_only_gets_shorter() -> None:
    lengths = lengths_of(MODULES)
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}
    longest = max(lengths.values())
    assert longest == FUNCTION_LINES_MAX, f"the longest function has {longest} lines: lower FUNCTION_LINES_MAX to that"


def test_only_the_outermost_frame_catches_everything() -> None:
    """Elsewhere everything may be caught only to tidy up and raise it again."""
    caught = {
        path: node.lineno
        for path, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and broad(node) and not reraises(node)
    }
    assert set(caught) == CATCH_EVERYTHING, caught


def test_one_module_owns_each_driver() -> None:
    owners = {driver: {path for path, tree in MODULES.items() if driver in set(imported(tree))} for driver in DRIVERS}
    assert owners == {driver: {owner} for driver, owner in DRIVERS.items()}


def test_statements_stand_in_sql_files() -> None:
    texts = [(path, line, text[:60]) for path, tree in MODULES.items() for line, text in texts_of(tree)]
    found = [each for each in texts if SQL.match(each[2])]
    assert [each for each in found if each[0] not in STATEMENTS_IN_PLACE or not ADMINISTRATION.match(each[2])] == []


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


def is_read(section: str, name: str) -> bool:
    owners = {section, "config", "_config", "settings", "_settings"}
    return any(owner in owners for owner, attribute in READ if attribute == name)


def test_every_setting_is_read() -> None:
    """A setting that nobody reads promises what does not happen."""
    assert [f"{section}.{name}" for section, name in names_of_settings() if not is_read(section, name)] == []


def test_an_unread_setting_would_be_found() -> None:
    assert not is_read("redis", "no_such_setting")
    assert is_read("redis", "url")


def keys() -> list[str]:
    """Every key of the contract as the docs write it."""
    shard = [f"{name}:{{n}}" for name, value in vars(Keys).items() if isinstance(value, property)]
    return [*shard, CLOCK_KEY, WEIGHTS_KEY, EXCHANGE_INFO_KEY, heartbeat_key("<process>")]


def document(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


SCRIPTS: dict[str, str] = tomllib.loads(document("pyproject.toml"))["project"]["scripts"]


def test_every_key_is_in_the_architecture() -> None:
    text = document("ARCHITECTURE.md")
    assert [key for key in keys() if f"`{key}`" not in text] == []


def test_every_console_script_is_in_the_documents() -> None:
    together = "\n".join(map(document, ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")))
    assert [name for name in SCRIPTS if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", together)] == []


def test_every_package_has_its_place_in_the_architecture() -> None:
    text = document("ARCHITECTURE.md")
    assert [package for package in PACKAGES if f"`{package}/`" not in text] == []


def test_every_make_target_is_in_the_help_and_those_that_people_use_are_in_the_documents() -> None:
    makefile, documents = document("Makefile"), document("README.md") + document("CONTRIBUTING.md")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    targets = [target for target in phony.split() if target != "help"]
    assert [each for each in targets if not re.search(rf"^# make {each}\b", makefile, re.MULTILINE)] == []
    assert [each for each in targets if not re.search(rf"^{each}:", makefile, re.MULTILINE)] == []
    assert [each for each in ("up", "check", "test", "lint", "coverage") if f"make {each}" not in documents] == []


def test_continuous_integration_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/bin/bash"
    assert lines[1] == "set -euo pipefail"
    assert lines[-1] == "make test"
    assert sum("make" in line for line in lines) == 1


def test_every_file_that_is_said_to_take_long_is_there() -> None:
    assert [name for name in SLOW if not (ROOT / "tests" / name).is_file()] == []
