"""Reads WebSocket captures: one message a line, with or without the receive time before it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from klagg.errors import RecordingError
from klagg.recordings.files import text_lines
from klagg.recordings.jsonarray import DECODER
from klagg.recordings.layouts import CAPTURE_PREFIX, SOCKET_URL
from klagg.recordings.model import OfficialKline, Refuse, RefusedRow, Trade, TradeIds
from klagg.recordings.rows import BadKline, agg_trade, closed_kline_event, fill
from klagg.recordings.values import BadValue, epoch_ms, is_text, received_ms, symbol_text
from klagg.row_rules import is_coin_margined

_LOOK_AHEAD_CHARACTERS = 16 * 1024 * 1024
_BAD_AT_FIRST_MAX = 8
"""So many lines that are no messages may stand before the first message: what has more is no capture."""
_AGG_EVENT = re.compile(r'"e"\s*:\s*"aggTrade"')
_TRADE_EVENT = re.compile(r'"e"\s*:\s*"trade"')


def trade_ids(path: Path) -> TradeIds:
    """Which of its trade streams a capture is read by: fills where it holds any, else aggregate trades.

    Fills are preferred because the exchange's klines count fills. Once an aggTrade has been seen the look-ahead ends
    after 16 million characters: whoever records both subscribes to both from the start. Raises RecordingError when
    the file holds neither.
    """
    aggregates = False
    characters = 0
    for _, line in text_lines(path):
        characters += len(line)
        if _TRADE_EVENT.search(line):
            return "trade"
        aggregates = aggregates or _AGG_EVENT.search(line) is not None
        if aggregates and characters > _LOOK_AHEAD_CHARACTERS:
            break
    if not aggregates:
        raise RecordingError(str(path), 0, "holds neither aggTrade nor trade events")
    return "agg"


def trades(path: Path, ids: TradeIds, refuse: Refuse | None = None) -> Iterator[Trade]:
    """The trades of one id space in the order recorded; `refuse` gets those that cannot be. Raises RecordingError.

    Trades that say that they are of COIN-M are of another market, and passed over.
    """
    wanted = "aggTrade" if ids == "agg" else "trade"
    build = agg_trade if ids == "agg" else fill
    for number, recv_ms, event in _events(path, refuse):
        if event.get("e") != wanted or is_coin_margined(event):
            continue
        try:
            trade = build(
                event, symbol_text(event.get("s")), recv_ms=recv_ms, event_ms=epoch_ms("event time", event.get("E"))
            )
        except BadValue as error:
            if refuse is None:
                raise RecordingError(str(path), number, str(error)) from error
            refuse(RefusedRow(str(path), number, str(error)))
            continue
        yield trade


def closed_klines(path: Path, refuse: Refuse | None = None) -> Iterator[tuple[str, str, OfficialKline]]:
    """(symbol, interval, kline) of every closed kline event: rows as official as the exchange's REST answers.

    `refuse` gets those that cannot be klines.
    """
    for number, _, event in _events(path, refuse):
        if event.get("e") != "kline":
            continue
        try:
            closed = closed_kline_event(event)
        except BadValue as error:
            if refuse is None:
                raise RecordingError(str(path), number, str(error)) from error
            kline = error.kline if isinstance(error, BadKline) else None
            refuse(RefusedRow(str(path), number, str(error), kline))
            continue
        if closed is not None:
            yield closed


def _events(path: Path, refuse: Refuse | None) -> Iterator[tuple[int, int | None, dict[str, Any]]]:
    """(line number, receive time, event) of each message, taken out of the combined wrapper where there is one.

    Answers to subscriptions and arrays (`!miniTicker@arr`) hold no trades and are passed over. `refuse` gets lines that
    are no messages: a recorder that is killed leaves half of one. RecordingError if no line is a message.
    """
    waiting: list[RefusedRow] | None = []

    def reject(reason: str, cause: Exception | None = None) -> None:
        if refuse is None:
            raise RecordingError(str(path), number, reason) from cause
        row = RefusedRow(str(path), number, reason)
        if waiting is None:
            refuse(row)
        elif len(waiting) < _BAD_AT_FIRST_MAX:
            waiting.append(row)
        else:
            raise RecordingError(str(path), waiting[0].number, waiting[0].reason) from cause

    for number, line in text_lines(path):
        if not line.strip() or SOCKET_URL.match(line):
            continue
        if not is_text(line):
            reject("is not UTF-8 text")
            continue
        recv_ms = None
        prefix = CAPTURE_PREFIX.match(line)
        if prefix:
            recv_ms = received_ms(prefix[1])
            line = line[prefix.end() :]
        try:
            message = DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            reject("is not JSON", error)
            continue
        if not isinstance(message, dict | list):
            reject("is no WebSocket message")
            continue
        if waiting is not None and refuse is not None:
            for row in waiting:
                refuse(row)
        waiting = None
        data = message.get("data", message) if isinstance(message, dict) else None
        if isinstance(data, dict):
            yield number, recv_ms, data
    if waiting:
        raise RecordingError(str(path), waiting[0].number, waiting[0].reason)
