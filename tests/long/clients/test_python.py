"""Python's clients, unmodified: history, live bars, 15m, and a gateway that begins again, all equal to the table."""

from __future__ import annotations

import os
import sys

import pytest

from tests.endtoend.kit import ROOT
from tests.long.clients.kit import Pipeline, programs, python

pytestmark = [
    pytest.mark.endtoend,
    pytest.mark.servers,
    pytest.mark.timeout(900),
    pytest.mark.skipif("KLAGG_LONG" not in os.environ, reason="takes minutes: make test-long runs it"),
]

OF_THIS_ENVIRONMENT = ("ccxt", "python_binance", "sdk", "unicorn")
OF_ANOTHER = ("connector", "pybotters")


@pytest.mark.parametrize("name", OF_THIS_ENVIRONMENT)
def test_it_follows(name: str, served: Pipeline) -> None:
    served.follow(name, [sys.executable, *programs(f"{name}_client")], {"PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="module")
def others() -> str:
    return str(python("others"))


@pytest.mark.parametrize("name", OF_ANOTHER)
def test_it_follows_from_an_environment_of_its_own(name: str, others: str, served: Pipeline) -> None:
    served.follow(name, [others, *programs(f"{name}_client")], {"PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="module")
def hummingbot() -> str:
    return str(python("hummingbot", (3, 12)))


def test_hummingbots_feed_becomes_ready_and_goes_on(hummingbot: str, served: Pipeline) -> None:
    served.follow("hummingbot", [hummingbot, *programs("hummingbot_client")], {"PYTHONPATH": str(ROOT)})
