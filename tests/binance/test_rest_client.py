"""The REST client against a real server: answers, refusals, silence, garbage, size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web

from klagg.binance.rest_client import ExchangeRest
from klagg.clock import ExchangeClock, local_ms
from klagg.errors import ConfigError, ExchangeRefused, ExchangeUnavailable
from tests.webkit import serving

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(answer: Answer, **options: Any) -> AsyncIterator[ExchangeRest]:
    """A client of a server that gives `answer` to everything."""
    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    async with serving(application) as port, ExchangeRest(f"http://127.0.0.1:{port}/", **options) as rest:
        yield rest


async def test_time_and_path() -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.path == "/fapi/v1/time"
        return web.json_response({"serverTime": 1700000000000})

    async with answering(answer) as rest:
        assert (await rest.time()).time_ms == 1700000000000


async def test_synchronising_measures_a_second_round_trip_on_the_open_connection() -> None:
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"serverTime": 1_000_000 * asked})

    clock = ExchangeClock()
    local = iter([100.0, 140.0, 200.0, 240.0])
    async with answering(answer) as rest:
        assert await rest.synchronise(clock, lambda: next(local)) == 0.0
        assert asked == 2
        assert clock.now_ms(120.0) == 2_000_000
        assert clock.delay_ms == 20.0
        assert await rest.synchronise(clock, lambda: next(local)) == pytest.approx(999_900)
        assert asked == 3


async def test_exchange_info_comes_decoded_and_as_it_was_sent() -> None:
    bodies = [b' {"a" : 1.10,\n"b":"\xe5\xb8\x81"} ', b'{"a":"\xff"}', b"{"]

    async def answer(request: web.Request) -> web.Response:
        assert request.path == "/fapi/v1/exchangeInfo"
        return web.Response(body=bodies.pop(0), content_type="application/json")

    gate = Porter()
    async with answering(answer, gate=gate) as rest:
        assert await rest.exchange_info_as_sent() == ({"a": 1.1, "b": "币"}, ' {"a" : 1.10,\n"b":"币"} ')
        for _ in range(2):
            with pytest.raises(ExchangeUnavailable, match=r"UTF-8|JSON"):
                await rest.exchange_info_as_sent()
    assert gate.entered == [1, 1, 1]


class Porter:
    """A gate that notes what it hears, and refuses once it is `shut`."""

    def __init__(self) -> None:
        self.entered: list[int] = []
        self.left: list[tuple[int, int, float]] = []
        self.shut = False

    async def enter(self, weight: int) -> int:
        if self.shut:
            raise ExchangeRefused("not now", status=429, retry_after_s=3)
        self.entered.append(weight)
        return 77

    async def leave(self, minute: int, used: int, pause_s: float) -> None:
        self.left.append((minute, used, pause_s))


async def test_the_gate_hears_of_every_ask_and_of_what_the_exchange_says_about_weight() -> None:
    answers = iter(
        [
            web.json_response({"serverTime": 1}, headers={"X-MBX-USED-WEIGHT-1M": "41"}),
            web.json_response({}, status=429, headers={"X-MBX-USED-WEIGHT-1M": "2401", "Retry-After": "7"}),
            web.json_response({}, status=418, headers={"X-MBX-USED-WEIGHT-1M": "-5", "Retry-After": "1e9"}),
            web.json_response({}, status=429, headers={"X-MBX-USED-WEIGHT-1M": "9" * 400}),
            web.json_response({}, status=503, headers={"Retry-After": "7"}),
        ]
    )

    async def answer(_: web.Request) -> web.Response:
        return next(answers)

    gate = Porter()
    async with answering(answer, gate=gate) as rest:
        await rest.get("/fapi/v1/klines", 5, limit=1000)
        for weight in (20, 20, 20, 20):
            with pytest.raises(ExchangeRefused):
                await rest.get("/fapi/v1/aggTrades", weight)
        gate.shut = True
        with pytest.raises(ExchangeRefused, match="not now"):
            await rest.time()
    assert gate.entered == [5, 20, 20, 20, 20]
    assert gate.left == [(77, 41, 0), (77, 2401, 7), (77, 0, 3 * 86_400), (77, 0, 60), (77, 0, 0)]


async def test_synchronising_passes_the_gate_before_it_takes_the_time() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"serverTime": 5_000_000})

    gate, clock = Porter(), ExchangeClock()
    local = iter([100.0, 140.0])
    async with answering(answer, gate=gate) as rest:
        await rest.synchronise(clock, lambda: next(local))
    assert gate.entered == [1, 1]
    assert [used for _, used, _ in gate.left] == [0, 0]
    assert clock.delay_ms == 20.0


async def test_a_refusal_carries_status_code_and_pause() -> None:
    async def answer(_: web.Request) -> web.Response:
        body = {"code": -1003, "msg": "Too many requests"}
        return web.json_response(body, status=429, headers={"Retry-After": "7"})

    async with answering(answer) as rest:
        with pytest.raises(ExchangeRefused, match="HTTP 429, code -1003: Too many requests") as refused:
            await rest.exchange_info()
    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (429, -1003, 7.0)


@pytest.mark.parametrize(
    ("body", "retry_after"), [("<html>", "soon"), ("[1]", "-1"), ("", "nan"), ('{"code":"x"}', "")]
)
async def test_a_refusal_in_another_shape_is_one_all_the_same(body: str, retry_after: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, status=503, headers={"Retry-After": retry_after})

    async with answering(answer) as rest:
        with pytest.raises(ExchangeRefused) as refused:
            await rest.time()
    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (503, 0, 0.0)


async def test_silence_ends_after_the_timeout() -> None:
    async def answer(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with answering(answer, timeout_ms=100) as rest:
        with pytest.raises(ExchangeUnavailable, match=r"did not answer /fapi/v1/time within 0\.1 s"):
            await rest.time()


async def test_nobody_listens() -> None:
    async with ExchangeRest("http://127.0.0.1:1") as rest:
        with pytest.raises(ExchangeUnavailable, match="does not answer /fapi/v1/time"):
            await rest.time()


async def test_what_is_not_json_or_too_long_is_an_error() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="x" * 5000 if "Info" in request.path else "surprise")

    async with answering(answer, answer_bytes_max=4096) as rest:
        with pytest.raises(ExchangeUnavailable, match="something else than JSON"):
            await rest.time()
        with pytest.raises(ExchangeUnavailable, match="more than 4096 bytes"):
            await rest.exchange_info()


async def test_a_connection_that_breaks_off_is_an_error() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport
        request.transport.abort()
        return response

    async with answering(answer) as rest:
        with pytest.raises(ExchangeUnavailable, match="does not answer"):
            await rest.time()


def test_what_is_no_url_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"exchange\.rest_url is 'fapi'"):
        ExchangeRest("fapi")


@pytest.mark.parametrize("status", [418, 429])
@pytest.mark.parametrize("dated", [True, False])
async def test_without_the_header_the_sentence_says_until_when_nobody_asks(status: int, dated: bool) -> None:
    """By the exchange's own clock, where the answer tells it."""
    until_ms = 1_795_953_000_000 if dated else int(local_ms()) + 1_800_000
    date = formatdate((until_ms - 1_800_000) // 1000, usegmt=True) if dated else "soon"

    async def answer(_: web.Request) -> web.Response:
        message = f"Way too many requests; IP(1.2.3.4) banned until {until_ms}. Use the websocket for live updates."
        return web.json_response({"code": -1003, "msg": message}, status=status, headers={"Date": date})

    gate = Porter()
    async with answering(answer, gate=gate) as rest:
        with pytest.raises(ExchangeRefused) as refused:
            await rest.get("/fapi/v1/klines", 5)
    (_, _, pause_s) = gate.left[0]
    assert 1_790 <= pause_s <= 1_800
    assert refused.value.retry_after_s == pause_s


@pytest.mark.parametrize(
    ("retry_after", "sentence", "pause_s"),
    [
        ("7", "banned until 1795953600000.", 600),
        ("900", "banned until 1795953600000.", 900),
        ("7", "IP Banned Until 1795953600000", 600),
        (formatdate(1_795_953_120, usegmt=True), "Too many requests.", 120),
        (formatdate(1_795_952_000, usegmt=True), "Too many requests.", 60),
        ("Sun, 29 Nov 2026 11:52:00 -0000", "Too many requests.", 120),
        ("1 Jan 99999999999999999999 00:00:00 GMT", "Too many requests.", 60),
    ],
)
async def test_the_longer_of_two_pauses_counts(retry_after: str, sentence: str, pause_s: float) -> None:
    headers = {"Date": formatdate(1_795_953_000, usegmt=True), "Retry-After": retry_after}

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=sentence, status=418, headers=headers)

    gate = Porter()
    async with answering(answer, gate=gate) as rest:
        with pytest.raises(ExchangeRefused):
            await rest.get("/fapi/v1/klines", 5)
    assert gate.left[0][2] == pause_s


@pytest.mark.parametrize(("left_s", "pause_s"), [(-1, 60), (0, 60), (4 * 86_400, 3 * 86_400), (10**6, 3 * 86_400)])
async def test_a_time_in_the_past_is_none_and_the_longest_ban_is_the_longest_pause(left_s: int, pause_s: int) -> None:
    date = formatdate(1_795_953_000, usegmt=True)

    async def answer(_: web.Request) -> web.Response:
        text = f"banned until {1_795_953_000_000 + left_s * 1000}."
        return web.Response(text=text, status=418, headers={"Date": date})

    gate = Porter()
    async with answering(answer, gate=gate) as rest:
        with pytest.raises(ExchangeRefused):
            await rest.get("/fapi/v1/klines", 5)
    assert gate.left[0][2] == pause_s
