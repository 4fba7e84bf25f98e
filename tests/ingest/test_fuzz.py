"""A million damaged frames: nothing escapes, each is accounted for, and no wrong trade gets through.

The parser is held to an oracle that is slow and shares no code with it: JSON to the letter, decimals as Decimal. What
the parser accepts the oracle must accept, with equal values; of what it rejects, a sample must be rejected there too.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import islice
from typing import Any

import pytest

from ingest.parser import Rejection, Rules, parse, parse_frames, texts_of
from klagg.binance.endpoints import Endpoint
from tests.ingest.kit import NOW_MS, SYMBOLS, agg_trade, fill

SEED = 20261121
FRAMES = 1_050_000
"""Damaged ones; a few mutations change nothing, so these are more than the million that is promised."""
BATCH = 500
SAMPLED = 8
"""Of the rejected frames, one in so many is shown to the oracle."""

KINDS = {
    "not_json",
    "not_object",
    "wrong_wrapper",
    "unknown_event",
    "coin_margined",
    "missing_field",
    "bad_symbol",
    "bad_price",
    "bad_qty",
    "bad_number",
    "future",
}

NUMBERS = (
    "2",
    "-",
    "01",
    "-0",
    "00",
    "-1",
    "1.",
    ".5",
    "1.0",
    "1e3",
    "1E400",
    "+1",
    "0x10",
    "NaN",
    "Infinity",
    "-Infinity",
    "1_0",
    str(2**63 - 1),
    str(2**63),
    str(2**64),
    str(-(2**63) - 1),
    "9" * 40,
    "9" * 5000,
    "0",
    "1 ",
    "１",
    "true",
    "null",
    '""',
)
TEXTS = (
    "",
    "0",
    "0.0",
    "-1",
    "1e5",
    "NaN",
    "1,2",
    "1.2.3",
    "1.",
    ".1",
    " 1",
    "1\\n",
    "\\u0031",
    "１",
    "٣",
    "9" * 18,
    "9" * 19,
    "0." + "1" * 17,
    "0." + "1" * 18,
    "\\ud800",
    "\\u0000",
    "\x00",
    "\n",
    "💣",
    "币安人生USDT",
    "BTCUSDT,ETHUSDT",
)
PIECES = (
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b" ",
    b"\t",
    b"\n",
    b"\r\n",
    b"0",
    b"-",
    b".",
    b"e",
    b"null",
    b"true",
    b'"p":"1",',
    b'"a":1,',
    b'"data":{},',
    b'"st":1,',
    b'"st":2,',
    b"/**/",
    b"//",
    b'{"result":null,"id":1}',
    "币".encode(),
    b"[" * 2000,
)
OTHERS = (
    b'{"result":null,"id":7}',
    b'{"error":{"code":2,"msg":"no"},"id":1}',
    b'{"code":-1,"msg":"no"}',
    b'{"stream":"!contractInfo","data":{"e":"contractInfo","E":1,"s":"BTCUSDT","st":1}}',
    b'{"stream":"x","data":{"e":"kline","E":1,"s":"BTCUSDT","k":{"t":1,"o":"1"},"st":1}}',
    b'{"stream":"!ticker@arr","data":[{"e":"24hrTicker","s":"BTCUSDT","c":"1"}]}',
    b"",
    b"null",
    b"[]",
    b"{}",
)

NAMES = (b"a", b"t", b"p", b"q", b"f", b"l", b"T", b"s", b"m", b"E", b"st", b"e", b"X", b"nq", b"data")

Mutation = Callable[[random.Random, bytes], bytes]


def flip(chance: random.Random, frame: bytes) -> bytes:
    """One bit, one byte, or a few bytes are others."""
    damaged = bytearray(frame)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(damaged))
        damaged[at] = damaged[at] ^ (1 << chance.randrange(8)) if chance.random() < 0.5 else chance.randrange(256)
    return bytes(damaged)


def truncate(chance: random.Random, frame: bytes) -> bytes:
    at = chance.randrange(len(frame))
    return frame[:at] if chance.random() < 0.8 else frame[at:]


def insert(chance: random.Random, frame: bytes) -> bytes:
    at = chance.randrange(len(frame) + 1)
    return frame[:at] + chance.choice(PIECES) + frame[at:]


def delete(chance: random.Random, frame: bytes) -> bytes:
    at = chance.randrange(len(frame))
    return frame[:at] + frame[at + chance.choice((1, 1, 2, 7, 30)) :]


def duplicate(chance: random.Random, frame: bytes) -> bytes:
    """A piece twice, or moved elsewhere: often a field that stands twice, with another value."""
    parts = frame.split(b",")
    piece = chance.choice(parts)
    if chance.random() < 0.5:
        piece = piece.replace(b"1", b"2")
    if chance.random() < 0.3:
        start, end = sorted(chance.randrange(len(frame)) for _ in range(2))
        return frame[:end] + frame[start:end] + frame[end:]
    parts.insert(chance.randrange(len(parts) + 1), piece)
    return b",".join(parts)


def swap_value(chance: random.Random, frame: bytes) -> bytes:
    """The value of a field is of another type, out of range, or no JSON at all."""
    head, colon, tail = frame.partition(b'"%s":' % chance.choice(NAMES))
    if not colon:
        return insert(chance, frame)
    ends = [at for at in (tail.find(b","), tail.find(b"}")) if at >= 0]
    number = chance.choice(NUMBERS) if chance.random() < 0.5 else str(chance.randrange(-10, 2**70))
    value = number if chance.random() < 0.5 else f'"{chance.choice(TEXTS)}"'
    if chance.random() < 0.05:
        depth = chance.choice((1, 10, 900, 990, 1000, 5000))
        value = "[" * depth + "]" * depth
    return head + colon + value.encode() + tail[min(ends, default=0) :]


def rename(chance: random.Random, frame: bytes) -> bytes:
    """The wrapper or a name is wrong, fields change places, blanks stand between them."""
    match chance.randrange(5):
        case 0:
            return frame.partition(b'"data":')[2][:-1] or b'{"stream":"x","data":' + frame + b"}"
        case 1:
            return b'{"stream":"x","data":' + frame + b"}"
        case 2:
            return frame.replace(b":", b": ").replace(b",", b", ")
        case 3:
            names = [b'"a"', b'"f"', b'"l"', b'"T"', b'"p"', b'"q"', b'"e"', b'"stream"', b'"data"', b'"s"']
            return frame.replace(chance.choice(names), chance.choice(names), 1)
        case _:
            head, brace, tail = frame.rpartition(b"{")
            fields = tail.rstrip(b"}").split(b",")
            chance.shuffle(fields)
            return head + brace + b",".join(fields) + tail[len(tail.rstrip(b"}")) :]


def other(chance: random.Random, frame: bytes) -> bytes:
    return chance.choice((*OTHERS, frame + frame, b"[" + frame + b"]", frame + b"\n", chance.randbytes(40), frame))


MUTATIONS: tuple[Mutation, ...] = (
    flip,
    flip,
    truncate,
    insert,
    insert,
    delete,
    duplicate,
    swap_value,
    swap_value,
    rename,
    other,
)


def good_frames(chance: random.Random, rules: Rules) -> list[bytes]:
    """Trades as the exchange sends them, of all symbols of the line."""
    frames = []
    for number in range(60):
        trade_id = chance.choice((0, 1, 7, 3_000_000_000)) + number
        symbol = chance.choice(SYMBOLS)
        event = agg_trade(trade_id, s=symbol) if rules.source == "aggTrade" else fill(trade_id, s=symbol)
        event |= {"p": f"{chance.randrange(1, 10**7) / 100:.2f}", "q": f"0.{chance.randrange(1000):03d}"}
        if rules.source == "trade":
            event |= {
                "X": chance.choice(("MARKET", "MARKET", "RPI", "NA", "BLOCK_2027")),
                "st": chance.choice((1, 1, 3)),
            }
        message = {"stream": "x@y", "data": event} if rules.endpoint is Endpoint.COMBINED else event
        frames.append(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode())
    return frames


def mutated(chance: random.Random, rules: Rules) -> Iterator[bytes]:
    """Damaged frames without end; some are damaged twice, and a few not at all."""
    good = good_frames(chance, rules)
    while True:
        frame = chance.choice(MUTATIONS)(chance, chance.choice(good))
        if frame and chance.random() < 0.15:
            frame = chance.choice(MUTATIONS)(chance, frame)
        yield frame


class Refused(Exception):
    """The oracle takes this frame for no trade."""


def need(condition: bool) -> None:
    if not condition:
        raise Refused


def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    need(len({name for name, _ in pairs}) == len(pairs))
    return dict(pairs)


def refuse(_: str) -> None:
    raise Refused


def oracle(frame: bytes, rules: Rules) -> tuple[Any, ...]:
    """(symbol, id, price, qty, first, last, time, maker, counts) of a frame, numbers as Decimal; else Refused."""
    try:
        message = json.loads(frame.decode("utf-8"), object_pairs_hook=no_twins, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise Refused from None
    need(isinstance(message, dict))
    if rules.endpoint is Endpoint.COMBINED:
        need("stream" in message and "data" in message)
        message = message["data"]
        need(isinstance(message, dict))
    need(message.get("e") == rules.source)
    need(not (type(message.get("st")) is int and message["st"] == 2))
    names = ("a", "f", "l") if rules.source == "aggTrade" else ("t", "t", "t")
    need({"s", "p", "q", "T", "m", *names} <= set(message))
    left_out = ["INSURANCE_FUND", "ADL", "NA"]
    counts = rules.source == "aggTrade" or message.get("X") not in left_out
    is_new = rules.source == "trade" and message.get("X") not in [None, "MARKET", "RPI", *left_out]
    whole = [message[name] for name in (*names, "T")]
    need(all(type(each) is int and -1 <= each < 2**63 for each in whole))
    trade_id, first, last, time_ms = whole
    need(trade_id >= 0 and time_ms >= 0)
    need(first <= last and time_ms <= NOW_MS + rules.future_ms_max)
    need(isinstance(message["s"], str) and message["s"] in SYMBOLS and type(message["m"]) is bool)
    price, qty = (amount_of(message[name]) for name in ("p", "q"))
    counts = counts and (price > 0 or not is_new) and qty > 0
    need(price > 0 or not counts)
    need((first >= 0 and last >= 0) or (first == last == -1 and not counts))
    return message["s"], trade_id, price, qty, first, last, time_ms, message["m"], counts


def amount_of(text: Any) -> Decimal:
    """A price or quantity: digits, at most one dot with digits on either side, 18 digits at most; or what floats leave
    of 0."""
    need(isinstance(text, str) and text.isascii())
    mantissa, negative, exponent = text.lower().partition("e-")
    plain = mantissa.replace(".", "", 1)
    is_number = plain.isdigit() and "." not in (mantissa[:1], mantissa[-1:])
    if is_number and (not negative or (exponent.isdigit() and len(exponent) <= 3)) and Decimal(text) < Decimal("1e-12"):
        return Decimal(0)
    need(isinstance(text, str) and bool(text) and set(text) <= set("0123456789."))
    whole, dot, fraction = text.partition(".")
    need(bool(whole) and "." not in fraction and (not dot or bool(fraction)) and len(whole + fraction) <= 18)
    return Decimal(text)


def values_of(texts: tuple[str, ...]) -> tuple[Any, ...]:
    """A row of the parser as the oracle says it."""
    symbol, trade_id, price, qty, first, last, time_ms, maker, counts = texts
    return (
        symbol,
        int(trade_id),
        Decimal(price),
        Decimal(qty),
        int(first),
        int(last),
        int(time_ms),
        {"1": True, "0": False}[maker],
        {"1": True, "0": False}[counts],
    )


def check(frames: list[bytes], rules: Rules, seen: Counter[str]) -> None:
    """One batch: everything is accounted for, and the oracle agrees."""
    parsed = parse_frames(frames, rules, NOW_MS)
    assert parsed.count + len(parsed.rejections) + len(parsed.replies) == len(frames)
    # Rejections name their frames and all is in order, so what is left over are the trades and the replies.
    rejected = iter(parsed.rejections)
    rows = iter(list(zip(*parsed.columns, strict=True)))
    waiting = next(rejected, None)
    for frame in frames:
        if waiting is not None and waiting.frame is frame:
            seen[waiting.kind] += 1
            if seen[waiting.kind] % SAMPLED == 0 or waiting.kind == "future":
                with pytest.raises(Refused):
                    oracle(frame, rules)
            waiting = next(rejected, None)
            continue
        try:
            expected = oracle(frame, rules)
        except Refused:
            # No trade, not rejected: it must be one of the replies.
            assert not isinstance(parse(frame, rules, NOW_MS), Rejection | tuple), f"a wrong trade: {frame!r}"
            seen["reply"] += 1
            continue
        texts = next(rows)
        assert values_of(texts) == expected, f"wrong values: {frame!r}"
        seen["trade"] += 1
    assert waiting is None
    assert next(rows, None) is None


LINES = [(endpoint, source) for endpoint in Endpoint for source in ("aggTrade", "trade")]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("endpoint", "source"), LINES)
def test_no_wrong_trade_gets_through(endpoint: Endpoint, source: str) -> None:
    rules = Rules(endpoint, source, frozenset(SYMBOLS), 10_000)
    chance = random.Random(f"{SEED} {endpoint} {source}")
    seen: Counter[str] = Counter()
    damaged = mutated(chance, rules)
    good = good_frames(chance, rules)
    wanted = FRAMES // len(LINES)
    for batch in range(wanted // BATCH):
        frames = list(islice(damaged, BATCH))
        if batch % 2:  # as they come in life: a bad one among many good ones
            frames = [each for bad in frames for each in (chance.choice(good), bad)]
        check(frames, rules, seen)
    print(f"seed {SEED}, {endpoint.value} {source}: {dict(sorted(seen.items()))}")
    assert sum(seen.values()) >= wanted
    assert set(seen) == KINDS | {"trade", "reply"}, "some kind of damage never came about"
    assert seen["trade"] - wanted // 2 < wanted * 0.4, "most of the damage must be seen"


@pytest.mark.parametrize(("endpoint", "source"), LINES)
def test_alone_and_in_a_batch_a_frame_is_the_same(endpoint: Endpoint, source: str) -> None:
    rules = Rules(endpoint, source, frozenset(SYMBOLS), 10_000)
    chance = random.Random(f"{SEED} alone {endpoint} {source}")
    for _ in range(100):
        frames = list(islice(mutated(chance, rules), 50))
        alone = [parse(frame, rules, NOW_MS) for frame in frames]
        parsed = parse_frames(frames, rules, NOW_MS)
        assert list(zip(*parsed.columns, strict=True)) == [texts_of(each) for each in alone if isinstance(each, tuple)]
        assert parsed.rejections == [each for each in alone if isinstance(each, Rejection)]


@pytest.mark.parametrize(
    "damage",
    [b'"a":-,"s"', b'"a":01,"s"', b'"a":7,"a":8,"s"', b'"a":7,"s":"ETHUSDT","s"'],
)
def test_the_oracle_refuses_what_fast_readers_take(damage: bytes) -> None:
    frame = b'{"stream":"x","data":' + json.dumps(agg_trade(7), separators=(",", ":")).encode() + b"}"
    assert oracle(frame, Rules(Endpoint.COMBINED, "aggTrade", frozenset(SYMBOLS), 0))[1] == 7
    with pytest.raises(Refused):
        oracle(frame.replace(b'"a":7,"s"', damage), Rules(Endpoint.COMBINED, "aggTrade", frozenset(SYMBOLS), 0))
