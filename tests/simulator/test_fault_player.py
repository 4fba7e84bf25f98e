from __future__ import annotations

from klagg.simulator.fault_player import TRUTH, FaultPlayer, Refusal, TickerTale
from klagg.simulator.faults import read_faults
from klagg.simulator.faulty_hub import FaultyHub


def play(*tables: str, seed: int = 1) -> FaultPlayer:
    script = read_faults(f"seed = {seed}\n" + "\n".join(f"[[fault]]\n{table}" for table in tables))
    return FaultPlayer(script, FaultyHub(1_000, script))


def test_handshakes_are_refused_by_line_and_while_it_lasts() -> None:
    faults = play('kind = "refuse"\nat_s = 1\nfor_s = 1\nline = "A"\nstatus = 503')
    assert faults.handshake("A") is None
    faults.turn(1_000)
    assert faults.handshake("A") == Refusal(503)
    assert faults.handshake("B") is None
    faults.turn(2_000)
    assert faults.handshake("A") is None


def test_requests_are_refused_by_endpoint_in_the_scripts_order() -> None:
    faults = play('kind = "rest_418"\npaths = ["klines"]\nretry_after_s = 9', 'kind = "rest_429"', 'kind = "rest_down"')
    assert faults.request("/fapi/v1/klines") == Refusal(418, 9)
    assert faults.request("/fapi/v1/aggTrades") == Refusal(429, 60)
    silent = play('kind = "rest_418"\nheader = false')
    assert silent.request("/fapi/v1/klines") == Refusal(418, 60, header=False)
    assert [row["acted"] for row in faults.state()] == [1, 1, 0]
    assert play('kind = "rest_down"').request("/fapi/v1/time") == Refusal(None)


def test_a_share_is_left_to_the_seeds_chance() -> None:
    def outcomes(seed: int) -> list[bool]:
        faults = play('kind = "rest_down"\nshare = 0.3', seed=seed)
        return [faults.request("/fapi/v1/time") is not None for _ in range(1_000)]

    assert 240 < sum(outcomes(1)) < 360
    assert outcomes(1) == outcomes(1) != outcomes(2)


def test_jumps_of_the_clock_add_up() -> None:
    faults = play('kind = "clock_skew"\njump_ms = 500', 'kind = "clock_skew"\nat_s = 1\nfor_s = 1\njump_ms = -2000')
    told = []
    for elapsed_ms in (0, 1_000, 2_000):
        faults.turn(elapsed_ms)
        told.append(faults.skew_ms())
    assert told == [500, -1_500, 500]


def test_tickers_are_late_frozen_wrong_or_left_out() -> None:
    faults = play(
        'kind = "late_ticker"\nwhere = "rest"\nlate_ms = 500',
        'kind = "frozen_ticker"\nat_s = 1\nfor_s = 2\nsymbols = ["AUSDT"]',
        'kind = "wrong_ticker"\nids = -3\nwhere = "stream"\nsymbols = ["AUSDT", "BUSDT"]',
        'kind = "missing_ticker"\nsymbols = ["CUSDT"]',
    )
    assert faults.ticker("rest", "AUSDT") == TickerTale(500, 500)
    assert faults.ticker("stream", "AUSDT") == TickerTale(ids=-3)
    faults.turn(2_500)
    assert faults.ticker("rest", "AUSDT") == TickerTale(1_500, 500)
    assert faults.ticker("stream", "AUSDT") == TickerTale(1_500, 0, -3)
    assert faults.ticker("stream", "DUSDT") == TRUTH
    assert faults.ticker("stream", "CUSDT") is faults.ticker("rest", "CUSDT") is None
    faults.turn(3_000)
    assert faults.ticker("stream", "BUSDT") == faults.ticker("stream", "AUSDT") == TickerTale(ids=-3)


def test_the_state_tells_what_goes_on() -> None:
    faults = play('kind = "silent"\nat_s = 1', 'kind = "refuse"')
    assert faults.handshake("") is not None
    assert faults.state() == [
        {"number": 1, "kind": "silent", "active": False, "acted": 0},
        {"number": 2, "kind": "refuse", "active": True, "acted": 1},
    ]
    faults.turn(1_000)
    assert [row["active"] for row in faults.state()] == [True, True]
