"""ShutdownRequests to end: counted, and interrupting only where they may."""

from __future__ import annotations

import signal

import pytest

from klagg.cli.up.signals import SIGNALS, Interrupted, ShutdownRequests


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
