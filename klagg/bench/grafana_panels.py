"""Grafana's dashboards without Grafana: which statements their panels ask, with macros and variables put in.

Grafana puts variables in first, in the browser (`${symbol:sqlstring}` becomes a quoted list), then `$__interval`, then
the macros of its PostgreSQL data source. What is not known here is an error, as it would be there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import ujson

from klagg.errors import ConfigError

DASHBOARDS: Final = Path(__file__).resolve().parents[2] / "config" / "grafana" / "dashboards"
"""The project's own; they come with its sources, not with the installed package."""

POSTGRESQL: Final = "grafana-postgresql-datasource"

_STEPS_S: Final = (
    1,
    2,
    5,
    10,
    15,
    20,
    30,
    60,
    120,
    300,
    600,
    900,
    1_200,
    1_800,
    3_600,
    7_200,
    10_800,
    21_600,
    43_200,
    86_400,
    604_800,
)
"""The lengths that `$__interval` takes, in seconds."""

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::(\w+))?\}")
_MACRO: Final = re.compile(r"\$(__\w+)\(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One statement of a panel, or of a variable (`kind` is then "variable", `repeated` false).

    `format` is "table" or "time_series". `repeated` names the variable for each of whose values the panel is drawn.
    """

    dashboard: str
    title: str
    kind: str
    format: str
    sql: str
    repeated: str = ""

    @property
    def name(self) -> str:
        """Dashboard and panel, for messages."""
        return f"{self.dashboard}: {self.title}"


@dataclass(frozen=True, slots=True)
class PanelContext:
    """The context of a query in Grafana: the range of the dashboard and the values of its variables."""

    since: datetime
    until: datetime
    variables: Mapping[str, Sequence[str]]
    points: int = 1000
    """How many points a panel shows: about its width in pixels."""
    timescaledb: bool = True

    @property
    def step_s(self) -> int:
        """`$__interval` in seconds: the length that gives at most about as many points as there is room for."""
        exact = (self.until - self.since).total_seconds() / self.points
        return next((step for step in _STEPS_S if step >= exact), _STEPS_S[-1])


def dashboards(folder: Path = DASHBOARDS) -> dict[str, Any]:
    """Every dashboard of a folder by its uid. ConfigError if there is none."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        model = ujson.loads(path.read_text(encoding="utf-8"))
        found[model["uid"]] = model
    if not found:
        raise ConfigError(
            f"there is no dashboard in {folder}: name the folder config/grafana/dashboards of the sources"
        )
    return found


def panels_of(model: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every panel of a dashboard that shows something, those in rows too."""
    for panel in model["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def questions(model: Mapping[str, Any]) -> Iterator[PanelQuery]:
    """The statements of a dashboard's panels for PostgreSQL, then those of its variables."""
    for panel in panels_of(model):
        for target in panel["targets"]:
            if target["datasource"]["type"] == POSTGRESQL:
                yield PanelQuery(
                    model["uid"],
                    panel["title"],
                    panel["type"],
                    target["format"],
                    target["rawSql"],
                    panel.get("repeat", ""),
                )
    for variable in model["templating"]["list"]:
        if variable["type"] == "query":
            yield PanelQuery(model["uid"], f"variable {variable['name']}", "variable", "table", variable["query"])


def expand(question: PanelQuery, answering: PanelContext) -> str:
    """The statement that reaches PostgreSQL. ConfigError names a variable or macro that does not exist."""

    def of_variable(found: re.Match[str]) -> str:
        name, form = found[1], found[2]
        if name not in answering.variables or form != "sqlstring":
            raise ConfigError(f"{question.name} has {found[0]}, which is no variable quoted by :sqlstring")
        values = answering.variables[name][: 1 if name == question.repeated else None]
        return ",".join("'" + value.replace("'", "''") + "'" for value in values)

    def of_macro(found: re.Match[str]) -> str:
        return _macro(question, found[1], [each.strip() for each in found[2].split(",")], answering)

    sql = _VARIABLE.sub(of_variable, question.sql)
    sql = sql.replace("$__interval_ms", str(answering.step_s * 1000)).replace("$__interval", _length(answering.step_s))
    sql = _MACRO.sub(of_macro, sql)
    if "$" in re.sub(r"'[^']*'", "", sql):
        raise ConfigError(f"{question.name} has a $ that Grafana would not replace")
    return sql


def _macro(question: PanelQuery, name: str, words: Sequence[str], answering: PanelContext) -> str:
    match name, words:
        case "__timeFilter", [column] if column:
            return f"{column} BETWEEN {_moment(answering.since)} AND {_moment(answering.until)}"
        case "__timeFrom", [""]:
            return _moment(answering.since)
        case "__timeTo", [""]:
            return _moment(answering.until)
        case "__timeGroup", [column, length]:
            step_s = _seconds(question, length.strip("'"))
            if answering.timescaledb:
                return f"time_bucket('{step_s:.3f}s',{column})"
            return f"floor(extract(epoch from {column})/{step_s})*{step_s}"
    raise ConfigError(f"{question.name} has the macro ${name}({', '.join(words)}), which is not known here")


def _moment(at: datetime) -> str:
    return f"'{at.astimezone(UTC).isoformat().replace('+00:00', 'Z')}'"


def _seconds(question: PanelQuery, length: str) -> int:
    if found := re.fullmatch(r"([1-9]\d*)([smhdw])", length):
        return int(found[1]) * _UNITS_S[found[2]]
    raise ConfigError(f"{question.name} groups by {length!r}, which is no length of time")


def _length(step_s: int) -> str:
    unit = next(unit for unit in ("w", "d", "h", "m", "s") if step_s % _UNITS_S[unit] == 0)
    return f"{step_s // _UNITS_S[unit]}{unit}"


def range_of(model: Mapping[str, Any]) -> timedelta:
    """How long the range is that a dashboard opens with (`now-24h` to `now`)."""
    found = re.fullmatch(r"now-(\d+)([smhdw])", model["time"]["from"])
    if not found or model["time"]["to"] != "now":
        raise ConfigError(f"the dashboard {model['uid']} does not open with a range that ends now")
    return timedelta(seconds=int(found[1]) * _UNITS_S[found[2]])


def defaults_of(model: Mapping[str, Any]) -> dict[str, list[str]]:
    """The values that the variables of a dashboard have when it opens."""
    chosen = {}
    for variable in model["templating"]["list"]:
        value = variable["current"]["value"]
        chosen[variable["name"]] = [value] if isinstance(value, str) else list(value)
    return chosen
