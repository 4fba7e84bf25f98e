"""The OpenAPI description of klagg's own API, made from its endpoints. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import klagg
from gateway.endpoints import ApiEndpoint
from klagg.kline import DECIMAL_FIELDS, INTEGER_FIELDS

Schema = dict[str, Any]

_PROBLEMS = {
    400: "The query is not valid.",
    401: "The token is missing or wrong.",
    404: "klagg does not know the symbol.",
    503: (
        "The gateway has just started and does not have the whole picture yet, the database cannot be reached or has "
        "too many requests, or klagg runs without a database."
    ),
}

NULLABLE_IDS = ("first_agg_id", "last_agg_id", "first_trade_id", "last_trade_id", "epoch")
"""Fields of a kline that are null where there is no value, or live state does not hold it."""

KLINE_FIELDS = (
    "open_time",
    "close_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trades",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "first_agg_id",
    "last_agg_id",
    "first_trade_id",
    "last_trade_id",
    "closed",
    "complete",
    "official",
    "epoch",
    "revision",
    "source",
    "edge",
)
"""The fields of a kline in an answer, in their order."""


BOOLEANS: Final = {
    "closed": "Whether the bar is final.",
    "complete": "Whether klagg's own trade ids prove that every trade of the bar is in it.",
    "official": "Whether nothing is missing on the word of the exchange, whose own klines stand for the bar or a part.",
}
"""The fields of a kline that are true or false, and what they say. Never are `complete` and `official` both true."""


def _object(properties: Mapping[str, Schema], *optional: str) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


TEXT, INTEGER, BOOLEAN = ({"type": name} for name in ("string", "integer", "boolean"))
MAYBE_TEXT, MAYBE_INTEGER = {"type": ["string", "null"]}, {"type": ["integer", "null"]}
DECIMAL: Schema = {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$", "description": "An exact decimal."}
MAYBE_DECIMAL: Schema = {**DECIMAL, "type": ["string", "null"]}
STEP: Schema = {**MAYBE_DECIMAL, "description": "The exchange's own; null if it lists none for the symbol now."}
TIME: Schema = {"type": "integer", "description": "UTC ms."}
MAYBE_TIME: Schema = {"type": ["integer", "null"], "description": "UTC ms."}
BOARD: Schema = {
    name: {**INTEGER, "description": text}
    for name, text in (
        ("expected", "Bars that should exist."),
        ("bars", "Finals in the table."),
        ("complete", "Finals that klagg's own trade ids prove to contain every trade."),
        (
            "official",
            "Finals that lack nothing on the exchange's word: its klines stand for them or a part.",
        ),
        ("amended", "Finals that were amended."),
        ("missing", "Bars that should exist and do not."),
        ("audited", "Bars that were compared with the exchange's own."),
        ("exact", "Audited bars that are equal."),
        ("adopted", "Of these, those that are it since the exchange's split of fills at a close was adopted."),
        ("edge_shift", "Bars that differ by fills at a close, which the exchange counts in the next bar."),
        ("exchange_gap", "Bars that differ because the exchange lacks trades."),
        ("local_gap", "Bars that differ because trades are missing here."),
        ("late", "Bars that will be compared again."),
        ("unexplained", "Bars that differ without an explanation."),
        ("open_findings", "Findings that are open."),
    )
} | {"counted_at": {**MAYBE_TIME}, "audited_at": {**MAYBE_TIME}}
"""The columns of the scoreboard for a day or a symbol."""
ANY_OBJECT: Schema = {"type": "object", "additionalProperties": True}


def _kline_field(name: str) -> Schema:
    if name in DECIMAL_FIELDS:
        return DECIMAL
    if name in NULLABLE_IDS:
        return MAYBE_INTEGER
    if name in BOOLEANS:
        return {**BOOLEAN, "description": BOOLEANS[name]}
    if name in INTEGER_FIELDS:
        return INTEGER
    return MAYBE_TEXT


def _file_field(name: str) -> Schema:
    """A field of a JSON file, whose decimals are numbers on wish."""
    return {**DECIMAL, "type": ["string", "number"]} if name in DECIMAL_FIELDS else _kline_field(name)


def _schemas() -> dict[str, Schema]:
    return {**_schemas_of_bars(), **_schemas_of_records(), **_schemas_of_state(), "Anything": ANY_OBJECT}


def _schemas_of_bars() -> dict[str, Schema]:
    series: dict[str, Schema] = {"symbol": TEXT, "interval": TEXT}
    price = dict.fromkeys(("price", "open", "high", "low", "volume", "quote_volume", "change_percent"), MAYBE_DECIMAL)
    return {
        "Problem": _object({"error": TEXT, "message": TEXT}),
        "Kline": _object({name: _kline_field(name) for name in KLINE_FIELDS}),
        "FileRow": _object({"symbol": TEXT, **{name: _file_field(name) for name in KLINE_FIELDS}}, "symbol"),
        "KlineRows": _list(_ref("FileRow")),
        "Klines": _object({**series, "stale_for_ms": INTEGER, "klines": _list(_ref("Kline"))}),
        "Symbol": _object(
            {
                "symbol": TEXT,
                "live": BOOLEAN,
                "status": MAYBE_TEXT,
                "time": MAYBE_TIME,
                **price,
                "trades": MAYBE_INTEGER,
                "tick_size": STEP,
                "step_size": STEP,
            }
        ),
        "Symbols": _object(
            {
                "stale_for_ms": INTEGER,
                "names_read": {
                    **BOOLEAN,
                    "description": "False while the database cannot be asked for symbols that have a history alone.",
                },
                "symbols": _list(_ref("Symbol")),
            }
        ),
    }


def _schemas_of_records() -> dict[str, Schema]:
    """Gaps, findings and the scoreboard: what is kept in tables beside the klines."""
    return {
        "Gap": _object(
            {
                "symbol": TEXT,
                "generation": INTEGER,
                "ids": TEXT,
                "from_id": INTEGER,
                "to_id": INTEGER,
                "before_time": MAYBE_TIME,
                "after_time": MAYBE_TIME,
                "opened_at": TIME,
                "ended_at": MAYBE_TIME,
                "reason": MAYBE_TEXT,
            }
        ),
        "Gaps": _object({"gaps": _list(_ref("Gap"))}),
        "Finding": _object(
            {
                "id": TEXT,
                "shard": INTEGER,
                "kind": TEXT,
                "severity": TEXT,
                "symbol": MAYBE_TEXT,
                "interval": MAYBE_TEXT,
                "open_time": MAYBE_TIME,
                "said_at": MAYBE_TIME,
                "evidence": MAYBE_TEXT,
                "closed_by": MAYBE_TEXT,
                "closed_at": {**MAYBE_TIME, "description": "UTC ms at which it was closed; null while it is open."},
                "standing": {
                    **BOOLEAN,
                    "description": "Whether it stays open until it is closed; otherwise it is a notice.",
                },
            }
        ),
        "Findings": _object({"findings": _list(_ref("Finding"))}),
        "BoardDay": _object({"day": TIME, "symbols": INTEGER, **BOARD}),
        "BoardSymbol": _object({"symbol": TEXT, "days": INTEGER, **BOARD}),
        "Scoreboard": _object(
            {
                "first": TIME,
                "last": TIME,
                "intervals": _list(TEXT),
                "days": _list(_ref("BoardDay")),
                "symbols": _list(_ref("BoardSymbol")),
            }
        ),
    }


def _schemas_of_state() -> dict[str, Schema]:
    return {
        "Shard": _object(
            {
                "shard": INTEGER,
                "position": TEXT,
                "time": TIME,
                "stale_for_ms": INTEGER,
                "timeouts": INTEGER,
                "alarm": BOOLEAN,
                "bars": INTEGER,
                "unwritten_ms": MAYBE_INTEGER,
            }
        ),
        "Alarm": _object({"process": TEXT, "kind": TEXT, "reason": TEXT, "since_ms": INTEGER}),
        "Status": _object(
            {
                "version": TEXT,
                "time": TIME,
                "stale": BOOLEAN,
                "stale_for_ms": INTEGER,
                "exchange": TEXT,
                "database": BOOLEAN,
                "intervals": _list(TEXT),
                "shards": _list(_ref("Shard")),
                "expected": _list(TEXT),
                "processes": _list(ANY_OBJECT),
                "missing": _list(TEXT),
                "silent": _list(TEXT),
                "alarms": _list(_ref("Alarm")),
                "market": TEXT,
                "ok": BOOLEAN,
                "streams": {"type": "object", "additionalProperties": INTEGER},
                "clients": INTEGER,
                "unserved": {"type": "object", "additionalProperties": INTEGER},
            }
        ),
    }


def _operation(name: str, endpoint: ApiEndpoint) -> Schema:
    media: dict[str, Schema] = {"application/json": {"schema": _ref(endpoint.schema)}}
    media |= {each: {"schema": {"type": "string", "format": "binary"}} for each in endpoint.media}
    answers: dict[str, Schema] = {"200": {"description": endpoint.summary, "content": media}}
    for status in sorted({400, 401, *endpoint.problems}):
        problem = {"application/json": {"schema": _ref("Problem")}}
        answers[str(status)] = {"description": _PROBLEMS[status], "content": problem}
    parameters = [
        {
            "name": each.name,
            "in": "query",
            "required": each.required,
            "description": each.description,
            "schema": each.schema(),
        }
        for each in endpoint.parameters
    ]
    return {"operationId": name, "summary": endpoint.summary, "parameters": parameters, "responses": answers}


def openapi(endpoints: Mapping[str, ApiEndpoint], *, token: bool) -> Schema:
    """The whole description; `token` says whether a token is required."""
    described: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "klagg",
            "version": klagg.__version__,
            "description": "Klines with their provenance. The same server answers Binance's own paths under /fapi/v1.",
        },
        "paths": {each.path: {"get": _operation(name, each)} for name, each in endpoints.items()},
        "components": {"schemas": _schemas()},
    }
    if token:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described
