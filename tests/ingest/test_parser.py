"""The parser: every kind of rejection, and that a batch means what its frames mean one by one."""

from __future__ import annotations

from typing import Any

import pytest
import ujson
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.parser import Parsed, Rejection, Reply, parse, parse_frames, texts_of
from klagg.binance.endpoints import Endpoint
from tests.ingest.kit import NOW_MS, agg_trade, fill, frame_of, rules

RAW, COMBINED = Endpoint.RAW, Endpoint.COMBINED


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_an_agg_trade(endpoint: Endpoint) -> None:
    row = parse(frame_of(agg_trade(7), endpoint), rules(endpoint), NOW_MS)
    assert row == ("BTCUSDT", 7, "85266.00", "0.158", 21, 23, NOW_MS - 200, False, True)


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_a_fill_stands_for_itself(endpoint: Endpoint) -> None:
    row = parse(frame_of(fill(9), endpoint), rules(endpoint, "trade"), NOW_MS)
    assert row == ("BTCUSDT", 9, "28145.10", "0.002", 9, 9, NOW_MS - 200, True, True)


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("MARKET", True),
        ("RPI", True),
        (..., True),
        ("INSURANCE_FUND", False),
        ("ADL", False),
        ("NA", False),
        ("", True),
        (None, True),
        ([], True),
        ("BLOCK_2027", True),
    ],
)
def test_fills_that_klines_leave_out_are_kept_but_do_not_count(kind: Any, counts: bool) -> None:
    frame = frame_of(fill(X=kind))
    row = parse(frame, rules(source="trade"), NOW_MS)
    assert isinstance(row, tuple)
    assert row[-1] is counts
    assert parse_frames([frame], rules(source="trade"), NOW_MS).columns[-1] == (str(int(counts)),)


def test_old_recordings_lack_the_newer_fields() -> None:
    row = parse(frame_of(agg_trade(nq=..., st=...)), rules(), NOW_MS)
    assert isinstance(row, tuple)


def test_names_may_be_cjk() -> None:
    row = parse(frame_of(agg_trade(s="币安人生USDT")), rules(), NOW_MS)
    assert isinstance(row, tuple)
    assert row[0] == "币安人生USDT"


@pytest.mark.parametrize(
    ("kind", "frame"),
    [
        ("not_json", b""),
        ("not_json", b"{"),
        ("not_json", b"\xff\xfe"),
        ("not_json", b"[" * 5000),
        ("not_json", frame_of(agg_trade()) + b"x"),
        ("not_object", b"null"),
        ("not_object", b"[]"),
        ("not_object", b'"text"'),
        ("not_json", b"NaN"),
        ("not_object", frame_of(None)),
        ("not_object", frame_of([agg_trade()])),
        ("wrong_wrapper", frame_of(agg_trade(), RAW)),
        ("missing_field", b"{}"),
        ("missing_field", b'{"result": 5}'),
        ("missing_field", ujson.dumps({"data": agg_trade()}).encode()),
        ("missing_field", frame_of(agg_trade(p=...))),
        ("missing_field", frame_of(agg_trade(m=...))),
        ("unknown_event", frame_of({})),
        ("unknown_event", frame_of(fill())),
        ("unknown_event", frame_of(agg_trade(e="aggtrade"))),
        ("unknown_event", frame_of(agg_trade(e=["aggTrade"]))),
        ("coin_margined", frame_of(agg_trade(st=2))),
        ("bad_symbol", frame_of(agg_trade(s="NOSUCHUSDT"))),
        ("bad_symbol", frame_of(agg_trade(s="BTCUSDT,ETHUSDT"))),
        ("bad_symbol", frame_of(agg_trade(s=5))),
        ("bad_symbol", frame_of(agg_trade(s=["BTCUSDT"]))),
        ("bad_symbol", frame_of(agg_trade(s="S")).replace(b'"S"', b'"\\ud800"')),
    ],
)
def test_what_is_no_trade_is_rejected_by_kind(kind: str, frame: bytes) -> None:
    rejection = parse(frame, rules(), NOW_MS)
    assert isinstance(rejection, Rejection)
    assert (rejection.kind, rejection.frame) == (kind, frame)
    assert rejection.reason
    assert_same_in_a_batch(frame, rejection)


BAD_DECIMALS = [
    "abc",
    "",
    " ",
    "-1",
    "-0.5",
    "+1",
    "1e5",
    "1E-3",
    "NaN",
    "nan",
    "inf",
    "Infinity",
    "0x10",
    "1_000",
    " 1",
    "1 ",
    "1\n",
    "1,2",
    "1.",
    ".5",
    "1.2.3",
    "١٢",
    "1234567890123456789",
    "1.234567890123456789",
    1,
    1.5,
    None,
    True,
    [],
    {},
]


@pytest.mark.parametrize("value", BAD_DECIMALS)
@pytest.mark.parametrize(("field", "kind"), [("p", "bad_price"), ("q", "bad_qty")])
def test_prices_and_quantities_are_plain_decimals(field: str, kind: str, value: Any) -> None:
    frame = frame_of(agg_trade(**{field: value}))
    rejection = parse(frame, rules(), NOW_MS)
    assert isinstance(rejection, Rejection)
    assert rejection.kind == kind
    assert_same_in_a_batch(frame, rejection)


@pytest.mark.parametrize("value", ["1", "0.00000001", "123456789012345678", "1234567890.12345678", "007.10"])
def test_decimals_stay_the_exchanges_own_texts(value: str) -> None:
    row = parse(frame_of(agg_trade(p=value, q=value)), rules(), NOW_MS)
    assert isinstance(row, tuple)
    assert row[2:4] == (value, value)


@pytest.mark.parametrize("value", ["0", "0.00", "000.000"])
def test_a_price_of_zero_is_refused_where_it_would_count(value: str) -> None:
    rejection = parse(frame_of(agg_trade(p=value)), rules(), NOW_MS)
    assert isinstance(rejection, Rejection)
    assert rejection.kind == "bad_price"
    assert isinstance(parse(frame_of(fill(p=value)), rules(source="trade"), NOW_MS), Rejection)
    # Binance writes 0 for fills of kind NA: their ids must stay, and klines leave them out.
    assert isinstance(parse(frame_of(fill(p=value, q="0", X="NA")), rules(source="trade"), NOW_MS), tuple)


@pytest.mark.parametrize(
    "change",
    [
        {"q": "0.000"},
        {"p": "0", "q": "0"},
        {"p": "0", "q": "0", "f": -1, "l": -1},
        {"q": "0E-8"},
        {"q": "5.5e-17"},
        {"q": "0.000000000000000055"},
        {"q": "0.00000000000005"},
    ],
)
def test_a_trade_that_cannot_count_keeps_its_id_and_counts_in_no_bar(change: dict[str, Any]) -> None:
    row = parse(frame_of(agg_trade(**change)), rules(), NOW_MS)
    assert isinstance(row, tuple)
    assert row[-1] is False
    frames = [frame_of(agg_trade(each)) for each in (1, 2)] + [frame_of(agg_trade(3, **change))]
    assert parse_frames(frames, rules(), NOW_MS).columns[-1] == ("1", "1", "0")


@pytest.mark.parametrize("value", [-1, 2**63, 10**40, 1.5, "5", True, None, [], float("inf")])
@pytest.mark.parametrize("field", ["a", "f", "l", "T"])
def test_ids_and_times_are_whole_numbers(field: str, value: Any) -> None:
    change: dict[str, Any] = {field: "@" if value == float("inf") else value}
    frame = frame_of(agg_trade(**change))
    if value == float("inf"):
        frame = frame.replace(b'"@"', b"Infinity")
    rejection = parse(frame, rules(), NOW_MS)
    assert isinstance(rejection, Rejection)
    assert rejection.kind == ("not_json" if value == float("inf") else "bad_number")
    assert_same_in_a_batch(frame, rejection)


@pytest.mark.parametrize("changes", [{"m": 1}, {"m": "true"}, {"m": None}, {"f": 9, "l": 8}])
def test_other_bad_numbers(changes: dict[str, Any]) -> None:
    frame = frame_of(agg_trade(**changes))
    rejection = parse(frame, rules(), NOW_MS)
    assert isinstance(rejection, Rejection)
    assert rejection.kind == "bad_number"
    assert_same_in_a_batch(frame, rejection)


def test_a_trade_in_the_far_future_is_refused() -> None:
    frame = frame_of(agg_trade(T=NOW_MS + 10_001))
    rejection = parse(frame, rules(), NOW_MS)
    assert isinstance(rejection, Rejection)
    assert rejection.kind == "future"
    assert_same_in_a_batch(frame, rejection)
    assert isinstance(parse(frame_of(agg_trade(T=NOW_MS + 10_000)), rules(), NOW_MS), tuple)


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_replies_are_known_on_both_endpoints(endpoint: Endpoint) -> None:
    def reply(text: str) -> Any:
        return parse(text.encode(), rules(endpoint), NOW_MS)

    assert reply('{"result":null,"id":1}') == Reply("")
    assert reply('{"error":{"code":2,"msg":"Invalid request"},"id":1}') == Reply("code 2: 'Invalid request'")
    assert reply('{"code":2,"msg":"Invalid JSON"}') == Reply("code 2: 'Invalid JSON'")
    assert parse_frames([b'{"result":null,"id":1}'], rules(endpoint), NOW_MS) == Parsed((), [], [Reply("")])


def test_the_wrapper_is_never_guessed() -> None:
    wrapped = parse(frame_of(agg_trade(), COMBINED), rules(RAW), NOW_MS)
    bare = parse(frame_of(agg_trade(), RAW), rules(COMBINED), NOW_MS)
    assert isinstance(wrapped, Rejection)
    assert isinstance(bare, Rejection)
    assert (wrapped.kind, bare.kind) == ("wrong_wrapper", "wrong_wrapper")


@pytest.mark.parametrize(
    "frames", [[], [frame_of(agg_trade(1))], [frame_of(agg_trade(each)) for each in range(1, 600)]]
)
def test_good_batches_come_out_in_order(frames: list[bytes]) -> None:
    parsed = parse_frames(frames, rules(), NOW_MS)
    assert parsed.count == len(frames)
    one_by_one = [parse(frame, rules(), NOW_MS) for frame in frames]
    assert rows_of(parsed) == [texts_of(row) for row in one_by_one if isinstance(row, tuple)]


def assert_same_in_a_batch(frame: bytes, rejection: Rejection) -> None:
    """A bad frame costs its neighbours nothing."""
    parsed = parse_frames([frame_of(agg_trade(1)), frame, frame_of(agg_trade(2))], rules(), NOW_MS)
    assert parsed.rejections == [rejection]
    assert list(parsed.columns[1]) == ["1", "2"]


def rows_of(parsed: Parsed) -> list[tuple[str, ...]]:
    """The trades of a batch, one by one."""
    return list(zip(*parsed.columns, strict=True))


def compact(value: Any) -> str:
    """JSON as the exchange writes it, without blanks."""
    return ujson.dumps(value, allow_nan=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("esapqflTmtX"), inner, max_size=4),
    max_leaves=8,
)
VALUES = (
    JSON | st.sampled_from(BAD_DECIMALS) | st.sampled_from(["BTCUSDT", "0", "0.0", "1.5", "NA", "MARKET", 5, 2**63])
)
FIELDS = st.sampled_from(["e", "s", "a", "t", "p", "q", "f", "l", "T", "m", "X", "st"])
DAMAGE = st.dictionaries(FIELDS, VALUES | st.just(...), max_size=2)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Anything that might arrive, trades most of all."""
    endpoint = draw(st.sampled_from(Endpoint))
    choice = draw(st.integers(0, 9))
    if choice == 0:
        return draw(st.binary(max_size=40))
    if choice == 1:
        return ujson.dumps(draw(JSON)).encode(errors="replace")
    build = agg_trade if draw(st.booleans()) else fill
    event = build(draw(st.integers(0, 50)), **(draw(DAMAGE) if choice > 4 else {}))
    text = ujson.dumps(event if endpoint is RAW else {"stream": "x", "data": event}, allow_nan=True)
    return text.encode(errors="replace")


@settings(max_examples=400, deadline=None)
@given(st.lists(frames(), max_size=6), st.sampled_from(Endpoint), st.sampled_from(["aggTrade", "trade"]))
def test_a_batch_means_what_its_frames_mean_one_by_one(some: list[bytes], endpoint: Endpoint, source: str) -> None:
    line = rules(endpoint, source)
    single = [parse(frame, line, NOW_MS) for frame in some]
    parsed = parse_frames(some, line, NOW_MS)
    rows = [each for each in single if isinstance(each, tuple)]
    assert rows_of(parsed) == list(map(texts_of, rows))
    assert parsed.newest_ms == max((row[6] for row in rows), default=0)
    assert parsed.rejections == [each for each in single if isinstance(each, Rejection)]
    assert parsed.replies == [each for each in single if isinstance(each, Reply)]
    assert parsed.count + len(parsed.rejections) + len(parsed.replies) == len(some)


@settings(max_examples=300, deadline=None)
@given(FIELDS, VALUES, st.sampled_from(["aggTrade", "trade"]))
def test_among_good_trades_a_damaged_one_is_what_it_is_alone(field: str, value: Any, source: str) -> None:
    build = agg_trade if source == "aggTrade" else fill
    try:
        frame = compact({"stream": "x", "data": build(5, **{field: value})}).encode(errors="replace")
    except OverflowError:
        return  # ujson writes no infinity
    line = rules(source=source)
    row = parse(frame, line, NOW_MS)
    parsed = parse_frames([frame_of(build(4)), frame, frame_of(build(6))], line, NOW_MS)
    if isinstance(row, tuple):
        assert rows_of(parsed)[1] == texts_of(row)
    else:
        assert (parsed.count, parsed.rejections) == (2, [row])


@pytest.mark.parametrize(
    ("written", "damaged"),
    [
        (b'"a":7', b'"a":-'),
        (b'"a":7', b'"a":07'),
        (b'"a":7', b'"a":-7'),
        (b'"a":7', b'"a":7.'),
        (b'"p":"85266.00"', b'"p":"85266.00","p":"1.00"'),
        (b'"a":7', b'"a":7,"a":8'),
        (b'"a":7', b'"a":NaN'),
        (b'"nq":"0.158"', b'"nq":"0.1\n58"'),
        (b'"nq":"0.158"', b'"nq":"\xed\xa0\x80"'),
        (b'"E"', b'"E":01,"E2"'),
        (b"}}", b"}},"),
        (b"}}", b"}}}"),
        (b"}}", b'},"data":{}}'),
        (b'{"stream"', b'\xef\xbb\xbf{"stream"'),
    ],
)
def test_what_is_not_json_to_the_letter_is_no_trade(written: bytes, damaged: bytes) -> None:
    """Fast readers of JSON take most of these, and read `-` as 0 and the last of two prices as the price."""
    good = frame_of(agg_trade(7))
    assert written in good
    rejection = parse(good.replace(written, damaged), rules(), NOW_MS)
    assert isinstance(rejection, Rejection)
    assert rejection.kind in ("not_json", "bad_number")
    assert_same_in_a_batch(rejection.frame, rejection)


@pytest.mark.parametrize("depth", range(1, 1200, 7))
def test_no_depth_of_nesting_escapes(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth or b"0"
    good = frame_of(agg_trade(7))
    for written in (b'"85266.00"', b'"BTCUSDT"', b'"aggTrade"', b"7"):
        assert isinstance(parse(good.replace(written, nested), rules(), NOW_MS), Rejection)
    reply = parse(b'{"error":{"code":' + nested + b',"msg":' + nested + b"}}", rules(), NOW_MS)
    assert isinstance(reply, Rejection | Reply)


@pytest.mark.parametrize("value", [3, None, "UM", {}, True, 1.0, "1"])
def test_a_symbol_type_that_nobody_has_seen_is_counted_and_its_trade_taken(value: Any) -> None:
    frame = frame_of(agg_trade(st=value))
    expected = parse(frame_of(agg_trade()), rules(), NOW_MS)
    assert parse(frame, rules(), NOW_MS) == expected
    parsed = parse_frames([frame_of(agg_trade()), frame], rules(), NOW_MS)
    assert parsed.count == 2
    ((kind, _), times), *others = parsed.words.items()
    assert (kind, times, others) == ("symbol_type", 1, [])


def test_an_execution_that_nobody_has_seen_counts_in_bars_unless_it_has_no_price() -> None:
    frames = [frame_of(fill(1, X="BLOCK_2027")), frame_of(fill(2, X="BLOCK_2027", p="0", q="0")), frame_of(fill(3))]
    parsed = parse_frames(frames, rules(source="trade"), NOW_MS)
    assert (parsed.columns[1], parsed.columns[-1]) == (("1", "2", "3"), ("1", "0", "1"))
    assert parsed.words == {("execution", "'BLOCK_2027'"): 2}
    for known in ("MARKET", "RPI", "NA", "ADL", "INSURANCE_FUND", ...):
        assert not parse_frames([frame_of(fill(1, X=known))], rules(source="trade"), NOW_MS).words


@pytest.mark.parametrize("value", [each for each in BAD_DECIMALS if isinstance(each, str)])
def test_two_bad_values_cannot_make_a_good_column(value: str) -> None:
    """Values are checked joined by commas: an empty one and one with a comma must not pass for two good ones."""
    line = rules()
    some = [frame_of(agg_trade(1, p=value)), frame_of(agg_trade(2, p="1,2")), frame_of(agg_trade(3, p=""))]
    for order in (some, some[::-1], [some[1], some[2]], [some[2], some[1]]):
        assert parse_frames(order, line, NOW_MS).count == 0
