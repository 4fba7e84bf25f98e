from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from klagg.simulator.faults import KINDS, MARKET_KINDS, Fault, FaultScriptError, altered, line_of, read_faults

EXAMPLE = Path(__file__).parents[2] / "config" / "faults" / "example.toml"
RAW = '{"e":"aggTrade","E":1,"a":7,"s":"币安人生USDT","p":"1.50"}'
WRAPPED = f'{{"stream":"币安人生usdt@aggTrade","data":{RAW}}}'


def one(text: str) -> Fault:
    (fault,) = read_faults(f"[[fault]]\n{text}").faults
    return fault


def test_the_example_shows_every_kind_and_every_key() -> None:
    script = read_faults(EXAMPLE.read_text())
    assert {fault.kind for fault in script.faults} == set(KINDS)
    text = EXAMPLE.read_text()
    assert {key for kind in KINDS.values() for key in kind.keys if f"{key} = " not in text} == set()


def test_an_empty_script_has_no_faults() -> None:
    script = read_faults("")
    assert (script.faults, script.seed, script.changes) == ((), 1, ())


def test_keys_become_values_in_ms() -> None:
    fault = one('kind = "disconnect"\nat_s = 30\nfor_s = 0.5\nevery_s = 120\nline = "A"\nconnections = [2, 1]')
    assert (fault.at_ms, fault.for_ms, fault.every_ms) == (30_000, 500, 120_000)
    assert (fault.number, fault.line, fault.connections, fault.reach) == (1, "A", (2, 1), "all")
    assert one('kind = "disconnect"').reach == "open"
    assert one('kind = "silent"').reach == "open"
    assert one('kind = "silent"\nreach = "all"\nconnections = "all"').reach == "all"
    assert one('kind = "stale_route"').reach == "new"
    assert one('kind = "lose"\nshare = 1\nconnections = 3').connections == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = ", "The fault script is no TOML"),
        ("sed = 1", "The fault script has an unknown key sed"),
        ("seed = -1", "seed must be an integer of 0 or more, not -1"),
        ("seed = true", "seed must be an integer of 0 or more, not True"),
        ("fault = 1", r"must be \[\[fault\]\] tables"),
        ("[[fault]]", r"Fault 1 \(fault\): kind must be one of disconnect, refuse, .*, not None"),
        ('[[fault]]\nkind = "flood"', r"Fault 1 \(fault\): kind must be one of .*, not 'flood'"),
        ('[[fault]]\nkind = "stall"\n[[fault]]\nkind = "stall"\nshare = 0.1', r"Fault 2 \(stall\): share is no key"),
        ('[[fault]]\nkind = "lose"\nshare = 0', r"Fault 1 \(lose\): share must be a share above 0 .*, not 0"),
        ('[[fault]]\nkind = "lose"\nshare = 1.1', r"share must be"),
        ('[[fault]]\nkind = "lose"\nat_s = -1', r"at_s must be a number of seconds of 0 or more, not -1"),
        ('[[fault]]\nkind = "lose"\nat_s = nan', r"at_s must be a number of seconds"),
        ('[[fault]]\nkind = "lose"\nat_s = true', r"at_s must be a number of seconds"),
        ('[[fault]]\nkind = "lose"\nfor_s = 0', r"for_s must be a number of seconds above 0, not 0"),
        ('[[fault]]\nkind = "lose"\nevery_s = 5', r"Fault 1 \(lose\): for_s is missing: what is repeated must end"),
        ('[[fault]]\nkind = "lose"\nfor_s = 5\nevery_s = 5', r"for_s must be less than every_s"),
        ('[[fault]]\nkind = "lose"\nsymbols = "BTCUSDT"', r"symbols must be a list of symbols in capitals"),
        ('[[fault]]\nkind = "lose"\nsymbols = ["btcusdt"]', r"symbols must be a list of symbols in capitals"),
        ('[[fault]]\nkind = "lose"\nline = "A B"', r"line must be the name of a line"),
        ('[[fault]]\nkind = "lose"\nconnections = 0', r"connections must be \"all\", how many, or a list"),
        ('[[fault]]\nkind = "lose"\nreach = "none"', r"reach must be \"open\", \"new\" or \"all\", not \"none\""),
        ('[[fault]]\nkind = "dead_symbol"', r"Fault 1 \(dead_symbol\): symbols is missing"),
        ('[[fault]]\nkind = "listing"\nsymbols = ["A"]', r"Fault 1 \(listing\): at_s is missing"),
        ('[[fault]]\nkind = "clock_skew"\njump_ms = 0', r"jump_ms must be an integer other than 0"),
        ('[[fault]]\nkind = "huge_frame"\nsize_bytes = 65536', r"size_bytes must be an integer from 65537"),
        ('[[fault]]\nkind = "rest_down"\nstatus = 200', r"status must be an integer from 400 to 599, not 200"),
        ('[[fault]]\nkind = "rest_429"\nsymbols = ["A"]', r"symbols is no key of this kind: it takes at_s, for_s"),
    ],
)
def test_what_is_wrong_is_named(text: str, sentence: str) -> None:
    with pytest.raises(FaultScriptError, match=sentence):
        read_faults(text)


def test_a_repeated_fault_comes_and_goes() -> None:
    fault = one('kind = "silent"\nat_s = 10\nfor_s = 2\nevery_s = 5')
    times = (9_999, 10_000, 11_999, 12_000, 14_999, 15_000, 16_999, 17_000)
    assert [fault.is_active(at) for at in times] == [False, True, True, False, False, True, True, False]
    assert [fault.occurrence(at) for at in times] == [None, 0, 0, 0, 0, 1, 1, 1]


def test_without_an_end_it_lasts_and_a_disconnect_is_a_moment() -> None:
    assert one('kind = "silent"\nat_s = 10').is_active(10**12)
    moment = one('kind = "disconnect"\nat_s = 10\nevery_s = 5')
    assert not moment.is_active(10_000)
    assert [moment.occurrence(at) for at in (9_999, 10_000, 14_999, 15_000)] == [None, 0, 0, 1]


def test_which_streams_it_touches() -> None:
    dead = one('kind = "dead_symbol"\nsymbols = ["币安人生USDT", "BTCUSDT"]')
    touched = ("btcusdt@aggTrade", "btcusdt@trade", "币安人生usdt@aggTrade")
    spared = ("btcusdt@kline_1m", "!miniTicker@arr", "ethusdt@aggTrade", "!contractInfo")
    assert [dead.concerns(name) for name in touched + spared] == [True] * 3 + [False] * 4
    assert one('kind = "lose"').concerns("!contractInfo")
    assert one('kind = "lose"\nsymbols = ["BTCUSDT"]').concerns("btcusdt@kline_1m")


def test_market_changes_are_told_apart_and_sorted() -> None:
    tables = ['kind = "relisting"\nat_s = 9', 'kind = "lose"', 'kind = "delisting"\nat_s = 3']
    script = read_faults("\n".join(f'[[fault]]\n{table}\nsymbols = ["AUSDT"]' for table in tables))
    assert [fault.kind for fault in script.changes] == ["delisting", "relisting"]
    assert {fault.kind for fault in script.changes} < MARKET_KINDS


@pytest.mark.parametrize("text", [RAW, WRAPPED, f"[{RAW},{RAW}]"])
def test_broken_frames_are_broken_whatever_the_chance(text: str) -> None:
    for kind in ("malformed", "truncated"):
        seen = set()
        for seed in range(200):
            (broken,) = altered(Fault(1, kind), text, "", Random(seed))
            with pytest.raises(json.JSONDecodeError):
                json.loads(broken)
            seen.add(broken)
        assert len(seen) > 10


def test_altered_frames_that_are_whole() -> None:
    assert altered(Fault(1, "duplicate"), RAW, WRAPPED, Random(1)) == [RAW, RAW]
    assert altered(Fault(1, "wrong_wrapper"), RAW, WRAPPED, Random(1)) == [WRAPPED]
    for kind in ("silent", "stale_route", "dead_symbol", "lose"):
        assert altered(Fault(1, kind), RAW, WRAPPED, Random(1)) == []
    for text in (RAW, WRAPPED, f"[{RAW}]"):
        (huge,) = altered(Fault(1, "huge_frame", size_bytes=70_000), text, "", Random(1))
        assert len(huge.encode()) == 70_000
        told = json.loads(huge)
        if isinstance(told, dict):
            del told["pad"]
        assert told == json.loads(text)


def test_lines_name_themselves() -> None:
    assert line_of("klagg-ingest-A", {}) == "A"
    assert line_of("klagg-ingest-B Python/3.11 websockets/15.0", {}) == "B"
    assert line_of("Python/3.11 websockets/15.0", {"line": "B"}) == "B"
    assert line_of("", {}) == ""
