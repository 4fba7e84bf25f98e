"""The wheel holds what it must and nothing else; installed, each name is klagg's own; dependencies are declared."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("klagg", "ingest", "aggregator", "gateway", "writers", "auditors")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SCRIPTS: dict[str, str] = PYPROJECT["project"]["scripts"]

NOT_IMPORTED = {
    "async-timeout": "redis imports it on Python before 3.11.3",
    "hiredis": "redis uses it where it is there",
    "python-socks": "websockets and aiohttp-socks use it to go through a SOCKS proxy",
}
"""Declared dependencies that no module of the packages imports, and why they are declared."""


def sources() -> Iterator[Path]:
    """Every file of the packages that belongs into the wheel, relative to the root."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in (".py", ".sql", ".lua", ".sh") or path.name == "py.typed":
                yield path.relative_to(ROOT)
    web = ROOT / "gateway" / "web"  # without vendor/, which is not klagg's
    for path in (*web.glob("*.*"), *(web / "page").iterdir()):
        yield path.relative_to(ROOT)


def run(*command: str, cwd: Path, **environment: str) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves folders behind, and takes in those of an earlier one."""
    copy = tmp_path_factory.mktemp("source") / "klagg"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "data")
    )
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy), cwd=folder)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel alone is installed."""
    folder = tmp_path_factory.mktemp("installed")
    run(
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder),
        str(wheel),
        cwd=folder,
    )
    return folder


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_packages_are_those_of_the_project() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found == {*PACKAGES, "tests"}


def test_the_wheel_holds_every_module_statement_and_marker(wheel: Path) -> None:
    expected = {path.as_posix() for path in sources()}
    assert {Path(name).suffix for name in expected} == {
        ".py",
        ".sql",
        ".lua",
        ".sh",
        ".typed",
        ".html",
        ".css",
        ".js",
        ".svg",
        ".json",
    }
    assert {name for name in expected if name.endswith("py.typed")} == {f"{package}/py.typed" for package in PACKAGES}
    assert names_in(wheel) == expected


def test_the_wheel_holds_no_tests_and_no_configuration(wheel: Path) -> None:
    assert {name.partition("/")[0] for name in names_in(wheel)} == set(PACKAGES)


def test_the_wheel_holds_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_installed_every_package_is_our_own(installed: Path, tmp_path: Path) -> None:
    """Some names are generic: another distribution's `config` or `gateway` must not stand in for ours."""
    program = (
        "import importlib, json\n"
        f"print(json.dumps({{name: importlib.import_module(name).__file__ for name in {PACKAGES!r}}}))"
    )
    found = json.loads(run(sys.executable, "-c", program, cwd=tmp_path, PYTHONSAFEPATH="1", PYTHONPATH=str(installed)))
    assert found == {name: str(installed / name / "__init__.py") for name in PACKAGES}


@pytest.mark.parametrize("script", SCRIPTS)
def test_installed_every_console_script_is_there_to_call(installed: Path, tmp_path: Path, script: str) -> None:
    program = (
        "import importlib.metadata, inspect, sys\n"
        "(found,) = [each for each in importlib.metadata.distributions(path=[sys.argv[1]])]\n"
        "(script,) = found.entry_points.select(group='console_scripts', name=sys.argv[2])\n"
        "call = script.load()\n"
        "inspect.signature(call).bind()\n"
        "print(inspect.getfile(call))"
    )
    found = run(
        sys.executable,
        "-c",
        program,
        str(installed),
        script,
        cwd=tmp_path,
        PYTHONSAFEPATH="1",
        PYTHONPATH=str(installed),
    )
    module, _, _ = SCRIPTS[script].partition(":")
    assert found.strip() == str(installed / (module.replace(".", "/") + ".py"))
    assert (installed / "bin" / script).is_file()


def imports_of(path: Path) -> Iterator[str]:
    """The top-level names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def third_party() -> dict[str, set[str]]:
    """Top-level names from elsewhere that the packages import, each with the files that do."""
    found: dict[str, set[str]] = {}
    for path in sources():
        if path.suffix == ".py":
            for name in imports_of(path):
                if name not in sys.stdlib_module_names and name not in PACKAGES:
                    found.setdefault(name, set()).add(path.as_posix())
    return found


def requirements(*extras: str) -> dict[str, Requirement]:
    """The declared dependencies by normal name, of the project and of these extras."""
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {canonicalize_name(each.name): each for each in map(Requirement, lines)}


def distributions_of(name: str) -> set[str]:
    """The distributions that bring the top-level name along."""
    return {canonicalize_name(each) for each in importlib.metadata.packages_distributions().get(name, [])}


def test_every_import_from_elsewhere_is_a_declared_dependency() -> None:
    declared, optional = set(requirements()), set(requirements("embedded-postgres"))
    for name, files in third_party().items():
        for file in files:
            allowed = optional if file.startswith("klagg/embedded/") else declared
            assert distributions_of(name) & allowed, f"{file} imports {name}, which pyproject.toml does not declare"


def test_every_declared_dependency_is_used() -> None:
    used = {distribution for name in third_party() for distribution in distributions_of(name)}
    assert set(requirements()) - used - set(NOT_IMPORTED) == set()
    assert set(NOT_IMPORTED) & used == set()


def locked(file: str = "requirements.lock") -> dict[str, str]:
    """The versions of a lock by normal name; every line is `name==version` or a comment."""
    versions: dict[str, str] = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.+!]*)", line)
            assert match, f"{file}: {line!r} is no exact version"
            versions[canonicalize_name(match[1])] = match[2]
    return versions


def test_the_lock_pins_every_declared_dependency_as_declared() -> None:
    versions, long = locked(), locked("requirements-long.lock")
    assert versions.keys().isdisjoint(long)
    extras = set(PYPROJECT["project"]["optional-dependencies"])
    for name in requirements("test-long").keys() - requirements(*(extras - {"test-long"})).keys():
        assert name in long, f"requirements-long.lock lacks {name}"
        assert requirements("test-long")[name].specifier.contains(long[name]), name
    wanted = requirements(*(extras - {"test-long"}))
    wanted |= {canonicalize_name(each.name): each for each in map(Requirement, PYPROJECT["build-system"]["requires"])}
    for name, requirement in wanted.items():
        assert name in versions, f"requirements.lock lacks {name}"
        assert requirement.specifier.contains(versions[name]), f"{name}=={versions[name]} is not {requirement}"


def test_the_lock_pins_what_those_need_too() -> None:
    """Installed without dependencies of its own, the environment must still be whole."""
    versions = locked()
    for name in versions:
        for line in importlib.metadata.requires(name) or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                assert canonicalize_name(need.name) in versions, f"{name} needs {need}, which is not in the lock"


def test_the_lock_names_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert " @ " not in text
    assert not re.search(r"^\s*-", text, re.MULTILINE)
