"""Queries of klagg's own API: what is taken, what is refused, and that the description says the same."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.endpoints import ApiProblem, Parameter, endpoints
from gateway.openapi import openapi

ALL = endpoints(["1m", "1d"], {"csv": "text/csv", "json": "application/json"})
SERIES = [("symbol", "BTCUSDT"), ("interval", "1m")]


def test_a_query_gets_its_defaults() -> None:
    assert ALL["klines"].read([*SERIES, ("token", "x")]) == {
        "symbol": "BTCUSDT",
        "interval": "1m",
        "start": None,
        "end": None,
        "limit": 500,
    }
    assert ALL["gaps"].read([("open", "true"), ("limit", "7")]) == {"symbol": None, "open": True, "limit": 7}


@pytest.mark.parametrize(
    ("name", "query", "error", "word"),
    [
        ("klines", [("interval", "1m")], "missing_parameter", "symbol is missing"),
        ("klines", [*SERIES, ("limti", "1")], "unknown_parameter", "limti"),
        ("klines", [*SERIES, ("limit", "0")], "bad_parameter", "between 1 and 5000"),
        ("klines", [*SERIES, ("limit", "1e3")], "bad_parameter", "whole number"),
        ("klines", [*SERIES, ("start", "-1")], "bad_parameter", "between 0"),
        ("klines", [*SERIES, ("start", "9" * 30)], "bad_parameter", "whole number"),
        ("klines", [*SERIES, ("limit", "١")], "bad_parameter", "whole number"),
        ("klines", [*SERIES, *SERIES], "bad_parameter", "there twice"),
        ("klines", [("symbol", ""), ("interval", "1m")], "bad_parameter", "1 to 64"),
        ("klines", [("symbol", "a\0b"), ("interval", "1m")], "bad_parameter", "NUL"),
        ("klines", [("symbol", "BTCUSDT"), ("interval", "3m")], "bad_parameter", "one of 1m, 1d"),
        ("gaps", [("open", "yes")], "bad_parameter", "true or false"),
        ("download", [*SERIES, ("start", "1"), ("format", "parquet")], "bad_parameter", "one of csv, json"),
        ("status", [("x", "1")], "unknown_parameter", "known here: none"),
    ],
)
def test_bad_queries_are_told_what_is_wrong(name: str, query: list[tuple[str, str]], error: str, word: str) -> None:
    with pytest.raises(ApiProblem, match=word) as caught:
        ALL[name].read(query)
    assert (caught.value.status, caught.value.error) == (400, error)


def references(node: Any) -> set[str]:
    """Every $ref in a description."""
    if isinstance(node, dict):
        return {node["$ref"]} if "$ref" in node else set().union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def test_the_description_names_every_path_parameter_and_schema() -> None:
    described = openapi(ALL, token=True)
    assert set(described["paths"]) == {each.path for each in ALL.values()}
    for name, each in ALL.items():
        operation = described["paths"][each.path]["get"]
        assert operation["operationId"] == name
        assert [one["name"] for one in operation["parameters"]] == [one.name for one in each.parameters]
        assert {"200", "400", "401"} <= set(operation["responses"])
    schemas = described["components"]["schemas"]
    assert references(described) == {f"#/components/schemas/{name}" for name in schemas}
    assert described["security"] == [{"token": []}]
    assert "security" not in openapi(ALL, token=False)


def test_a_parameter_describes_what_it_takes() -> None:
    limit = ALL["klines"].parameters[-1]
    assert limit.schema() == {"type": "integer", "minimum": 1, "maximum": 5000, "default": 500}
    assert Parameter("x", "", choices=("a", "b")).schema() == {"type": "string", "enum": ["a", "b"]}
