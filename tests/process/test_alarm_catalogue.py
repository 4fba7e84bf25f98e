"""Every kind of alarm: in the documents, and raised and cleared by its real cause in a test."""

from __future__ import annotations

import ast
import re

import pytest

from klagg.process.alarms import AlarmKind
from tests.test_architecture import MODULES, ROOT

RAISED_AND_CLEARED = {
    AlarmKind.NO_MARKET_DATA: "gateway/test_service.py::test_a_silent_market_is_said_first",
    AlarmKind.LINE_SILENT: "ingest/test_liveness_guard.py::test_nothing_at_all_is_a_stale_route",
    AlarmKind.STALLED: "ingest/test_session.py::test_a_stalled_socket_is_given_up",
    AlarmKind.SILENT: "ingest/test_liveness_guard.py::test_a_connection_that_is_acknowledged_and_silent_is_made_anew",
    AlarmKind.DEAD_SYMBOL: "ingest/test_liveness_guard.py::test_one_dead_symbol_is_unmarked_and_subscribed_to_anew",
    AlarmKind.SILENT_CONTROL: "ingest/test_liveness_guard.py::test_a_silent_control_connection_is_told_by_trades",
    AlarmKind.STALE_ROUTE: "ingest/test_liveness_guard.py::test_nothing_at_all_is_a_stale_route",
    AlarmKind.HAND_OVER: "ingest/test_connection.py::test_the_new_session_must_deliver_before_the_old_one_ends",
    AlarmKind.NOT_CARRIED: "ingest/test_listed.py::test_a_symbol_that_ticks_and_is_not_carried_is_asked_about",
    AlarmKind.HALTED: "ingest/test_clock_service.py::test_a_halt_is_written_at_once_and_an_alarm_that_ends",
    AlarmKind.WAITING: "ingest/test_clock_service.py::test_a_choice_that_is_not_there_is_waited_for",
    AlarmKind.NEW_WORD: "ingest/test_listed.py::test_a_new_contract_type_is_an_alarm_while_it_is_listed",
    AlarmKind.FEED_FULL: "ingest/test_feed_capacity.py::test_it_looks_now_and_then_and_says_what_changed",
    AlarmKind.BUFFER_FULL: (
        "ingest/test_sender.py::test_the_alarm_over_a_full_buffer_ends_when_nothing_was_dropped_for_a_while"
    ),
    AlarmKind.CLOCK_LOST: "ingest/test_synchroniser.py::test_a_clock_that_is_read_again_ends_the_alarm",
    AlarmKind.CLOCK_JUMPED: "ingest/test_synchroniser.py::test_a_jump_is_an_alarm",
    AlarmKind.TIME_WENT_BACK: "ingest/test_clock_service.py::test_ticks_stand_still_while_the_exchanges_time_is_back",
    AlarmKind.WALL_CLOCK_SET: "process/test_stats.py::test_alarms_about_a_moment_end_by_the_pulse",
    AlarmKind.NO_OUTPUT: "process/test_stats.py::test_the_alarm_stands_in_the_heartbeat_until_a_period_is_well_again",
    AlarmKind.LIVE_STALLED: (
        "gateway/test_service.py::test_a_stalled_redis_is_served_from_the_last_good_state_and_caught_up"
    ),
    AlarmKind.PROCESS_SILENT: "gateway/test_service.py::test_a_process_that_lost_its_heartbeat_is_silent_and_an_alarm",
}
"""By kind, the test in which its cause begins and ends."""


@pytest.mark.parametrize("kind", list(AlarmKind))
def test_every_kind_is_raised_and_cleared_by_its_cause_in_a_test(kind: AlarmKind) -> None:
    path, _, name = RAISED_AND_CLEARED[kind].partition("::")
    text = (ROOT / "tests" / path).read_text(encoding="utf-8")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    (test,) = (each for each in ast.walk(ast.parse(text)) if isinstance(each, functions) and each.name == name)
    source = ast.get_source_segment(text, test) or ""
    where = text if kind is AlarmKind.NO_OUTPUT else source  # a helper of that file looks at the kind
    assert f"AlarmKind.{kind.name}" in where


def test_every_kind_is_in_the_documents() -> None:
    text = (ROOT / "docs/explanation/alarms.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [str(kind) for kind in AlarmKind]


def test_every_kind_is_raised_somewhere_and_nobody_else_cries_alarm() -> None:
    sources = {path: (ROOT / path).read_text(encoding="utf-8") for path in MODULES}
    catalogue = sources.pop("klagg/process/alarms.py")
    for kind in AlarmKind:
        raised = re.compile(rf"(?:raise_|_raise)\(\s*AlarmKind\.{kind.name}\b")
        assert any(raised.search(text) for text in sources.values()), f"nothing raises {kind}"
    assert [path for path, text in sources.items() if '"ALARM: ' in text] == []
    assert catalogue.count('"ALARM: ') == 1
