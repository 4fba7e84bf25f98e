"""Whose weight a request is charged to, behind proxies and on this machine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway import fapi
from gateway.addresses import client_of, is_loopback, networks_of
from klagg.binance.serving.limits import Limits, WeightLimiter
from klagg.errors import ConfigError
from klagg.settings import from_tree
from tests.gateway.kit import NOW_MS, Teller, running

PROXIES = networks_of(["127.0.0.1", "10.0.0.0/8", "::1"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", ["1.2.3.4, 203.0.113.7"], "203.0.113.7"),  # the left one is the client's own word
        ("127.0.0.1", ["1.2.3.4", "203.0.113.7, 10.1.2.3"], "203.0.113.7"),
        ("127.0.0.1", ["10.9.9.9, 10.1.2.3"], "10.9.9.9"),
        ("::ffff:127.0.0.1", ["203.0.113.7:5000"], "203.0.113.7"),
        ("::1", ["[2001:db8::7]:443"], "2001:db8::7"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.7, nonsense, 10.1.2.3"], "10.1.2.3"),
        ("127.0.0.1", [","], "127.0.0.1"),
        ("198.51.100.1", ["203.0.113.7"], "198.51.100.1"),  # no trusted proxy: the header is the client's own word
        (None, ["203.0.113.7"], "unknown"),
    ],
)
def test_the_header_is_read_from_the_right(peer: str | None, forwarded: list[str], client: str) -> None:
    assert client_of(peer, forwarded, PROXIES) == client


def test_without_trusted_proxies_the_header_says_nothing() -> None:
    assert client_of("127.0.0.1", ["203.0.113.7"], ()) == "127.0.0.1"


@pytest.mark.parametrize(
    ("client", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_loopback(client: str, local: bool) -> None:
    assert is_loopback(client) is local


def test_a_proxy_that_is_no_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gateway\.trusted_proxies names 'nginx'"):
        from_tree({"gateway": {"trusted_proxies": ["nginx"]}})


def test_an_address_that_may_not_be_banned_gets_429_until_the_minute_ends() -> None:
    limiter = WeightLimiter(Limits(weight_per_minute=10))
    found = [limiter.charge("127.0.0.1", 1, 0, banned=False).status for _ in range(300)]
    assert found == [200] * 10 + [429] * 290
    assert limiter.charge("127.0.0.1", 1, 60_000, banned=False).status == 200


@pytest.mark.servers
async def test_this_machine_is_never_banned_and_each_client_of_a_proxy_has_its_own_weight(
    redis_url: str, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fapi, "time", SimpleNamespace(time_ns=lambda: NOW_MS * 1_000_000))  # all in one minute
    teller.tell({("BTCUSDT", "1m"): {}})
    async with running(redis_url, weight_per_minute=20, trusted_proxies=["127.0.0.1"]) as client:

        async def ask(forwarded: str = "") -> int:
            headers = {"X-Forwarded-For": forwarded} if forwarded else {}
            async with client.session.get(f"{client.url}/fapi/v1/ping", headers=headers) as response:
                return response.status

        assert {await ask() for _ in range(60)} == {200, 429}
        assert await ask("203.0.113.7") == 200
        found = [await ask("198.51.100.9, 203.0.113.8") for _ in range(40)]
        assert found[:20] + found[-1:] == [200] * 20 + [418]
        assert await ask("203.0.113.7") == 200
        assert await ask() == 429
