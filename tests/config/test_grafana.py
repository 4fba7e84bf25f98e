"""config/grafana: every statement of the dashboards on the real database, and their JSON against Grafana's types."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from klagg.bench import grafana_panels
from klagg.bench.grafana import fill
from klagg.bench.grafana_panels import PanelContext, PanelQuery
from klagg.drivers.postgres import Database
from klagg.embedded import PostgresServer, bring_prefix
from klagg.errors import DatabaseRefused
from tests.config.grafanakit import FOLDER, ROOT, validate
from writers.migrate import migrate

SYMBOLS = 5
DAYS = 16
MODELS = grafana_panels.dashboards()
QUESTIONS = [each for model in MODELS.values() for each in grafana_panels.questions(model)]
PANELS = [panel for model in MODELS.values() for panel in grafana_panels.panels_of(model)]
EACH_QUESTION = pytest.mark.parametrize("question", QUESTIONS, ids=lambda each: each.name)
NUMBER = int | float | Decimal


def panel_of(question: PanelQuery) -> dict[str, Any]:
    found = [each for each in grafana_panels.panels_of(MODELS[question.dashboard]) if each["title"] == question.title]
    assert len(found) == 1
    return dict(found[0])


class Filled:
    """A database with a small market in it, asked by the role klagg_reader."""

    def __init__(self, server: PostgresServer, name: str, timescaledb: bool) -> None:
        self.until = datetime.now(UTC).replace(second=0, microsecond=0)
        self.since = self.until.replace(hour=0, minute=0) - timedelta(days=DAYS)
        self.timescaledb = timescaledb
        owner = Database(server.create_database(name), timeout_ms=120_000)
        migrate(owner)
        fill(owner, self.since, self.until, SYMBOLS)
        owner.close()
        server.sql("ANALYZE", name)
        server.sql("ALTER ROLE klagg_reader LOGIN PASSWORD 'for the tests'")
        url = re.sub(r"//klagg:\w+@", "//klagg_reader:for%20the%20tests@", server.database_url(name))
        self.reader = Database(url)

    def ask(self, question: PanelQuery, **changes: Any) -> list[dict[str, Any]]:
        return self.reader.query(self.sql(question, **changes))

    def sql(self, question: PanelQuery, **changes: Any) -> str:
        model = MODELS[question.dashboard]
        variables = grafana_panels.defaults_of(model)
        if "symbol" in variables:
            variables["symbol"] = ["BTCUSDT", "SYM0003USDT"]
        since = self.until - grafana_panels.range_of(model)
        answering = PanelContext(since, self.until, variables, timescaledb=self.timescaledb)
        return grafana_panels.expand(question, dataclasses.replace(answering, **changes))


@pytest.fixture(scope="module")
def filled(postgres_server: PostgresServer) -> Iterator[Filled]:
    yield from filled_of(postgres_server, timescaledb=True)


def filled_of(server: PostgresServer, *, timescaledb: bool) -> Iterator[Filled]:
    try:
        found = Filled(server, "grafana", timescaledb)
        yield found
        found.reader.close()
    finally:
        server.sql("ALTER ROLE klagg_reader NOLOGIN PASSWORD NULL")
        server.drop_database("grafana")


class PlainPostgres(PostgresServer):
    """The same server without TimescaleDB preloaded."""

    def _prepare(self) -> None:
        super()._prepare()
        self._build = dataclasses.replace(self.build, hypertables=False)


@pytest.fixture(scope="module")
def plain(servers_directory: Path) -> Iterator[Filled]:
    with PlainPostgres(servers_directory / "grafana", fsync=False, source="debian") as server:
        yield from filled_of(server, timescaledb=False)


def question_of(title: str) -> PanelQuery:
    (found,) = [each for each in QUESTIONS if each.title == title]
    return found


# What panels need.


def check_series(rows: list[dict[str, Any]]) -> None:
    """A time, at most one text that names the series, and numbers; in order, and no point of a series twice."""
    texts = {name for row in rows for name, value in row.items() if isinstance(value, str)}
    assert texts <= {"metric"}
    numbers = set(rows[0]) - {"time", "metric"}
    assert numbers
    assert all(row[name] is None or isinstance(row[name], NUMBER) for row in rows for name in numbers)
    assert any(row[name] is not None for row in rows for name in numbers)
    times = [row["time"] for row in rows]
    assert all(isinstance(at, datetime | NUMBER) for at in times)
    assert times == sorted(times)
    points = [(row["time"], row.get("metric")) for row in rows]
    assert len(set(points)) == len(points)


def check_rows(question: PanelQuery, rows: list[dict[str, Any]]) -> None:
    assert rows, "nothing to show"
    if question.kind in {"timeseries", "status-history"}:
        assert question.format == "time_series"
        check_series(rows)
        return
    assert question.format == "table"
    if question.kind == "candlestick":
        assert set(rows[0]) == {"time", *panel_of(question)["options"]["fields"].values()}
        check_series(rows)
        assert all(row["low"] <= min(row["open"], row["close"]) for row in rows)
        assert all(row["high"] >= max(row["open"], row["close"]) for row in rows)
    elif question.kind == "stat":
        assert len(rows) == 1
        assert all(isinstance(value, NUMBER) for value in rows[0].values())
    elif question.kind == "variable":
        model = MODELS[question.dashboard]
        (name,) = rows[0]
        (value,) = grafana_panels.defaults_of(model)[question.title.removeprefix("variable ")]
        assert value in [row[name] for row in rows]
    else:
        assert question.kind == "table"


@EACH_QUESTION
@pytest.mark.servers
def test_every_panel_gets_what_it_shows(filled: Filled, question: PanelQuery) -> None:
    rows = filled.ask(question)
    check_rows(question, rows)
    if question.kind != "variable":
        for override in panel_of(question)["fieldConfig"]["overrides"]:
            assert override["matcher"]["options"] in rows[0]


@EACH_QUESTION
@pytest.mark.servers
def test_every_panel_works_on_plain_postgresql(plain: Filled, question: PanelQuery) -> None:
    check_rows(question, plain.ask(question))


@EACH_QUESTION
@pytest.mark.servers
def test_a_range_without_data_is_no_error(filled: Filled, question: PanelQuery) -> None:
    long_ago = datetime(2019, 1, 1, tzinfo=UTC)
    filled.ask(question, since=long_ago, until=long_ago + timedelta(days=1))


@EACH_QUESTION
@pytest.mark.servers
def test_a_symbol_with_a_quote_in_its_name_is_only_a_name(filled: Filled, question: PanelQuery) -> None:
    values = ["'; DROP TABLE symbols; --", "币安人生USDT"]
    filled.ask(question, variables={"symbol": values, "witness": values[:1], "interval": ["1m"]})


@pytest.mark.servers
def test_the_reader_of_the_dashboards_cannot_write(filled: Filled) -> None:
    with pytest.raises(DatabaseRefused, match="permission denied"):
        filled.reader.execute("DELETE FROM findings")


# How they are answered.

BARS = re.compile(r"\bFROM klines\b|\bFROM klines_amended\b|\bcompleteness\(")


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes_of(inner)


@pytest.mark.parametrize(
    "question", [each for each in QUESTIONS if each.kind != "variable"], ids=lambda each: each.name
)
@pytest.mark.servers
def test_bars_are_found_by_the_key_and_in_the_chunks_of_the_range(filled: Filled, question: PanelQuery) -> None:
    sql = filled.sql(question, since=filled.until - timedelta(hours=3))
    with filled.reader.transaction():
        # The market of this test is so small that reading all of it would be the better plan.
        filled.reader.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        (row,) = filled.reader.query(f"EXPLAIN (FORMAT JSON) {sql}")
    read = [
        (node["Relation Name"], node["Node Type"])
        for node in nodes_of(row["QUERY PLAN"][0]["Plan"])
        if node.get("Relation Name", "").startswith(("_hyper", "klines"))
    ]
    if BARS.search(sql) is None:
        return
    assert read
    assert [name for name, kind in read if kind == "Seq Scan"] == []
    if "klines_latest" not in sql:
        # A chunk is seven days long, or thirty for amendments, so that three hours lie in two at most.
        assert len({name for name, _ in read}) <= 2 < filled_chunks(filled)


def filled_chunks(filled: Filled) -> int:
    (row,) = filled.reader.query(
        "SELECT count(*) AS chunks FROM timescaledb_information.chunks WHERE hypertable_name = 'klines_minutes'"
    )
    return int(row["chunks"])


# What they say.


@pytest.mark.servers
def test_candles_are_the_bars_themselves_while_there_is_room(filled: Filled) -> None:
    question = question_of("$symbol, bars of $interval")
    candles = filled.ask(question, since=filled.until - timedelta(hours=2))
    bars = filled.reader.query(
        'SELECT open_time AS "time", open, high, low, close, volume FROM klines_1m'
        " WHERE symbol = 'BTCUSDT' AND open_time >= %(since)s ORDER BY open_time",
        {"since": filled.until - timedelta(hours=2)},
    )
    assert candles == bars
    assert len(bars) == 120


@pytest.mark.servers
def test_candles_are_merged_where_there_are_too_many(filled: Filled) -> None:
    day = filled.since + timedelta(days=1)
    question = question_of("$symbol, bars of $interval")
    merged = filled.ask(question, since=day, until=day + timedelta(hours=24, milliseconds=-1), points=24)
    hours = filled.reader.query(
        'SELECT open_time AS "time", open, high, low, close, volume FROM klines_1h'
        " WHERE symbol = 'BTCUSDT' AND open_time >= %(day)s ORDER BY open_time LIMIT 24",
        {"day": day},
    )
    assert merged == hours


@pytest.mark.servers
def test_movers_come_by_how_far_they_moved(filled: Filled) -> None:
    rows = filled.ask(question_of("Top movers in the range"))
    assert len(rows) == SYMBOLS
    for row in rows:
        assert float(row["change"]) == pytest.approx(100 * (float(row["to"]) / float(row["from"]) - 1), abs=1e-9)
    moves = [abs(row["change"]) for row in rows]
    assert moves == sorted(moves, reverse=True)
    assert moves[0] > 0


@pytest.mark.servers
def test_completeness_agrees_with_the_bars(filled: Filled) -> None:
    (stat,) = filled.ask(question_of("Completeness of $interval"), since=filled.since)
    (counted,) = filled.reader.query(
        "SELECT count(*) AS bars, count(*) FILTER (WHERE complete) AS complete,"
        " count(*) FILTER (WHERE official) AS official,"
        " count(*) FILTER (WHERE revision > 1) AS amended FROM klines_1m"
    )
    assert stat["symbol-days"] == SYMBOLS * (DAYS + 1)
    assert stat["bars not proven"] == counted["bars"] - counted["complete"] - counted["official"] > 0
    assert stat["complete"] > stat["official"] > 0
    assert stat["whole"] == pytest.approx(stat["complete"] + stat["official"])
    assert stat["amended bars"] == counted["amended"] > 0
    assert stat["missing bars"] <= SYMBOLS  # the minute that closed while the table was filled


# The files.


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    return validate()


def test_dashboards_fit_the_types_that_grafana_publishes(said: dict[str, Any]) -> None:
    assert said["problems"] == []
    assert said["checked"]["dashboards"] == 3
    assert said["checked"]["panels"] == said["checked"]["options"] == len(PANELS)


def test_a_damaged_dashboard_would_be_found(tmp_path: Path) -> None:
    folder = tmp_path / "grafana"
    shutil.copytree(FOLDER, folder)
    path = folder / "dashboards" / "market.json"
    model = json.loads(path.read_text(encoding="utf-8"))
    candles, change, volume, *_, prices = model["panels"]
    model["surplus"] = 1
    model["templating"]["list"][0]["type"] = "querry"
    candles["options"]["mode"] = "candels"
    change["fieldConfig"]["defaults"]["custom"]["drawStyle"] = "dots"
    volume["type"] = "timeserie"
    del prices["options"]["showHeader"]
    path.write_text(json.dumps(model), encoding="utf-8")
    problems = "\n".join(validate(folder)["problems"])
    for problem in (
        'market.json: must NOT have additional properties {"additionalProperty":"surplus"}',
        "market.json/templating/list/0/type: must be equal to one of",
        "options/mode: must be equal to one of",
        "custom/drawStyle: must be equal to one of",
        "there is no panel of the type timeserie",
        "must have required property 'showHeader'",
    ):
        assert problem in problems


def test_data_sources_are_what_the_dashboards_name(said: dict[str, Any]) -> None:
    provisioned = said["yaml"]["datasources/klagg.yml"]
    assert provisioned["apiVersion"] == 1
    sources = {each["uid"]: each for each in provisioned["datasources"]}
    named = {(each["datasource"]["uid"], each["datasource"]["type"]) for panel in PANELS for each in panel["targets"]}
    named |= {(panel["datasource"]["uid"], panel["datasource"]["type"]) for panel in PANELS}
    assert named == {(uid, each["type"]) for uid, each in sources.items()}
    tables = sources["klagg"]
    assert tables["user"] == "klagg_reader"
    assert tables["jsonData"]["timescaledb"] is True
    assert "password" not in json.dumps(tables["jsonData"]).lower()
    assert re.fullmatch(r"\$\w+", tables["secureJsonData"]["password"])


def test_dashboards_are_provisioned_from_their_folder(said: dict[str, Any]) -> None:
    (provider,) = said["yaml"]["dashboards/klagg.yml"]["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "$GF_PATHS_PROVISIONING/dashboards")
    assert not provider["allowUiUpdates"]


def test_every_variable_of_the_provisioning_is_explained(said: dict[str, Any]) -> None:
    text = (FOLDER / "datasources" / "klagg.yml").read_text(encoding="utf-8")
    comment, _, rest = text.partition("apiVersion")
    assert set(re.findall(r": \$(\w+)", rest)) == set(re.findall(r"^#   (KLAGG_\w+)", comment, re.MULTILINE))


def test_ids_and_places_of_panels_are_their_own() -> None:
    for model in MODELS.values():
        ids = [panel["id"] for panel in model["panels"]]
        assert len(set(ids)) == len(ids)
        taken: set[tuple[int, int]] = set()
        for panel in model["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert max(x for x, _ in cells) < 24
            assert not cells & taken
            taken |= cells


EXPRESSIONS = [
    (panel["title"], target["expr"])
    for panel in PANELS
    for target in panel["targets"]
    if target["datasource"]["type"] == "prometheus"
]
PACKAGE_OF = {
    "ingest": "ingest",
    "repair": "ingest",
    "clock": "ingest",
    "aggregator": "aggregator",
    "writer": "writers",
}


@pytest.mark.servers
def test_prometheus_takes_every_expression(tmp_path: Path) -> None:
    assert len(EXPRESSIONS) > 10
    rules = [
        {"record": f"dashboard:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, (_, expression) in enumerate(EXPRESSIONS)
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboards", "rules": rules}]}), encoding="utf-8")
    promtool = bring_prefix("prometheus") / "bin" / "promtool"
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_processes_count_what_the_dashboards_ask_for() -> None:
    metrics = {name for _, text in EXPRESSIONS for name in re.findall(r"\bklagg_\w+", text) if not name.endswith("_")}
    assert len(metrics) >= 12
    for metric in metrics:
        _, process, stem = metric.split("_", 2)
        if process == "process":
            assert f'"{metric}"' in (ROOT / "klagg" / "process" / "metrics.py").read_text(encoding="utf-8")
            continue
        code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / PACKAGE_OF[process]).glob("*.py"))
        code += (ROOT / "klagg" / "process" / "service.py").read_text(encoding="utf-8")
        stem = stem.removesuffix("_total").removesuffix("_bucket")
        names = {stem, stem.removesuffix("_seconds") + "_ms", stem.removesuffix("_seconds") + "_s"}
        assert any(f'"{name}"' in code for name in names), metric
