"""Parts of a tick's outputs: together they are the whole, their cuts depend on the klines alone."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aggregator.commit import STREAMS
from aggregator.parts import KLINES_MAX, parts_of
from aggregator.publisher import Outputs

WHAT = st.dictionaries(st.sampled_from([*STREAMS, "bars"]), st.integers(0, 7))


def outputs_of(counts: dict[str, int], *, last: bool = True) -> Outputs:
    made = Outputs(5, last=last)
    for name, count in counts.items():
        if name == "bars":
            made.bars = {f"b{number}": "1" for number in range(count)}
        else:
            setattr(made, name, [{name: str(number)} for number in range(count)])
    return made


def values_of(outputs: Outputs) -> dict[str, Any]:
    return {each.name: getattr(outputs, each.name) for each in fields(Outputs) if not each.name.startswith("_")}


@given(WHAT, st.booleans(), st.integers(1, 4))
def test_the_parts_are_the_whole_in_order(counts: dict[str, int], last: bool, klines_max: int) -> None:
    whole = values_of(outputs_of(counts, last=last))
    parts = [values_of(part) for part in parts_of(outputs_of(counts, last=last), klines_max)]
    for name in STREAMS:
        assert [entry for part in parts for entry in part[name]] == whole[name]
    assert [part["bars"] for part in parts if part["bars"]] == ([whole["bars"]] if whole["bars"] else [])
    assert all(len(part["klines"]) <= klines_max for part in parts)
    assert [part["last"] for part in parts] == [*[False] * (len(parts) - 1), last]
    assert {part["time_ms"] for part in parts} == {5}


def test_many_klines_go_first_and_what_shows_the_present_by_itself() -> None:
    counts = {"klines": 7, "live": 2, "bars": 5, "events": 3, "findings": 1}
    parts = [values_of(part) for part in parts_of(outputs_of(counts), 3)]
    filled = [{name: len(value) for name, value in part.items() if name in counts and value} for part in parts]
    assert filled == [{"klines": 3}, {"klines": 3}, {"klines": 1, "events": 3, "findings": 1}, {"live": 2}, {"bars": 5}]


@given(WHAT, WHAT, st.integers(1, 4))
def test_what_shows_the_present_does_not_move_the_cuts(one: dict[str, int], other: dict[str, int], most: int) -> None:
    """A restarted core shows every open bar again, so it must not matter how many there are."""
    same = {"klines": one.get("klines", 0)}
    first, second = (list(parts_of(outputs_of(counts | same), most)) for counts in (one, other))
    assert [part.klines for part in first] == [part.klines for part in second], "as many, with the same klines"


def test_an_ordinary_tick_is_one_part() -> None:
    outputs = outputs_of({"klines": 7, "live": 2})
    assert list(parts_of(outputs)) == [outputs]
    assert len(list(parts_of(outputs_of({"klines": KLINES_MAX})))) == 1
    assert len(list(parts_of(outputs_of({"klines": KLINES_MAX + 1})))) == 4


def test_fields_that_leave_bars_go_out_once_and_last() -> None:
    whole = Outputs(1, klines=[{"n": str(number)} for number in range(7)], bars={"A": "1"}, bars_gone=["B"])
    parts = list(parts_of(whole, 3))
    assert [part.bars_gone for part in parts] == [[], [], [], [], ["B"]]
    assert parts[-1].bars == {"A": "1"}
