"""ShutdownRequests to end: counted, and interrupting only where they may."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from klagg.cli.up.signals import SIGNALS, Interrupted, ShutdownRequests


@pytest.fixture(autouse=True)
def _hangup_means_what_it_usually_means() -> Iterator[None]:
    """The tests themselves may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_wish_is_counted_and_interrupts_nothing(number: signal.Signals) -> None:
    with ShutdownRequests() as shutdown:
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert shutdown.count == 2


def test_a_wish_interrupts_what_may_be_interrupted() -> None:
    with ShutdownRequests() as shutdown:
        with pytest.raises(Interrupted), shutdown.interruptible():
            signal.raise_signal(signal.SIGINT)
        assert shutdown.count == 1


def test_a_wish_interrupts_once_so_that_cleaning_up_is_not_disturbed() -> None:
    cleaned = False

    def work() -> None:
        nonlocal cleaned
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            cleaned = True

    with ShutdownRequests() as shutdown:
        with pytest.raises(Interrupted), shutdown.interruptible():
            work()
        assert shutdown.count == 2
    assert cleaned


def test_a_wish_that_came_before_is_not_forgotten() -> None:
    with ShutdownRequests() as shutdown:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted), shutdown.interruptible():
            pytest.fail("begun although asked to end")
        with shutdown.interruptible(seen=1):
            begun = True
        assert begun


def test_behind_it_signals_mean_what_they_meant() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with ShutdownRequests():
        assert before != [signal.getsignal(number) for number in SIGNALS]
    assert before == [signal.getsignal(number) for number in SIGNALS]


def test_under_nohup_a_hangup_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ShutdownRequests() as requests:
        signal.raise_signal(signal.SIGHUP)
        assert requests.count == 0
        signal.raise_signal(signal.SIGTERM)
        assert requests.count == 1
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_started_in_a_scripts_background_an_interrupt_is_a_request() -> None:
    """There SIGINT comes ignored; a person who sends it nevertheless means it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ShutdownRequests() as requests:
            signal.raise_signal(signal.SIGINT)
            assert requests.count == 1
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
