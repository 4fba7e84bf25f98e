"""Every metric by the name that Prometheus shows, and what it means. Pure.

A process counts under short names (`klagg.process.stats`): the statistics `rejected` of ingest-A is the metric
`klagg_ingest_rejected_total`, and `connection_silence_ms` is `klagg_ingest_connection_silence_seconds`. Every metric
also bears the label `process`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9_]")


def family_of(process: str, statistic: str) -> tuple[str, float]:
    """The name of the metric without the `_total` of counters, and the factor of its values: 0.001 from ms to s."""
    stem, factor = _NOT_IN_NAMES.sub("_", statistic.lower()), 1.0
    if stem.endswith("_ms"):
        stem, factor = f"{stem.removesuffix('_ms')}_seconds", 0.001
    elif stem.endswith("_s"):
        stem = f"{stem.removesuffix('_s')}_seconds"
    return f"klagg_{_NOT_IN_NAMES.sub('_', process.partition('-')[0].lower())}_{stem}", factor


METRICS: Final[Mapping[str, str]] = {
    # process
    "klagg_process_alarm": "How many subjects of an alarm stand now, by kind; 0 while all is well.",
    "klagg_process_alarms_total": "How often an alarm was raised, by kind.",
    "klagg_process_running": "1 while the process does its work.",
    "klagg_process_start_time_seconds": "When the process began, Unix time.",
    # aggregator
    "klagg_aggregator_bad_entries_total": "Feed entries that cannot be used and are in `dead`.",
    "klagg_aggregator_commit_seconds": "How long the last commit took.",
    "klagg_aggregator_commits_total": "Commits.",
    "klagg_aggregator_covered_total": "Trades of minutes that are official already: no bar counts them.",
    "klagg_aggregator_duplicates_total": "Trades that were known already.",
    "klagg_aggregator_entries_total": "Feed entries read.",
    "klagg_aggregator_exchange_seconds": "Exchange time of the last tick, Unix time.",
    "klagg_aggregator_finals_total": "Klines published as final.",
    "klagg_aggregator_findings_total": "Findings, by kind.",
    "klagg_aggregator_gaps_closed_total": "Gaps of ids that closed, healed or lost.",
    "klagg_aggregator_gaps_opened_total": "Gaps of ids that opened.",
    "klagg_aggregator_lost_entries_total": "Feed entries that were gone before they were read.",
    "klagg_aggregator_oldest_gap_seconds": "Age of the oldest open gap, exchange time.",
    "klagg_aggregator_open_gaps": "Gaps of ids that are open.",
    "klagg_aggregator_refused_total": "Trades that no bar can take; a finding names them.",
    "klagg_aggregator_repeated_entries_total": "Feed entries that came twice.",
    "klagg_aggregator_requests_total": "Requests to repair.",
    "klagg_aggregator_symbols": "Symbols whose bars have begun.",
    "klagg_aggregator_ticks_total": "Ticks.",
    "klagg_aggregator_trade_entries_total": "Feed entries with trades.",
    "klagg_aggregator_trades_total": "Trades that are in bars.",
    # auditor
    "klagg_auditor_answers_total": "Answers of the exchange's REST API.",
    "klagg_auditor_bars_total": "Bars compared for the first time.",
    "klagg_auditor_calls_total": "REST calls.",
    "klagg_auditor_closed_total": "Findings settled, by kind and severity.",
    "klagg_auditor_entries_total": "Entries judged.",
    "klagg_auditor_findings_total": "Findings, by kind and severity.",
    "klagg_auditor_lag_seconds": "How far this auditor is behind the newest event, exchange time.",
    "klagg_auditor_lap_percent": "How much of this lap is done.",
    "klagg_auditor_lap_seconds": "How long the last lap over all series took.",
    "klagg_auditor_laps": "Laps since the start.",
    "klagg_auditor_looks_again_total": "Bars compared again.",
    "klagg_auditor_looks_total": "Comparisons of a series with the exchange's rows.",
    "klagg_auditor_malformed_total": "Answers that are not as documented.",
    "klagg_auditor_oldest_seconds": "Age of the oldest minute that was not compared.",
    "klagg_auditor_open_findings": "Findings that are open.",
    "klagg_auditor_reclaimed_total": "Entries taken over from a consumer that is away.",
    "klagg_auditor_refused_total": "Calls that the exchange refused.",
    "klagg_auditor_requests_total": "Requests to repair.",
    "klagg_auditor_series": "Series that are compared.",
    "klagg_auditor_ticks_total": "Ticks judged.",
    "klagg_auditor_unaudited_seconds": "Age of the oldest bar not compared, by interval.",
    "klagg_auditor_verdicts_total": "What comparisons showed, by verdict.",
    "klagg_auditor_weight_limit": "REST weight that the address may use in a minute.",
    "klagg_auditor_weight_of_minute": "REST weight used in this minute, as the exchange reports it.",
    "klagg_auditor_weight_total": "REST weight spent.",
    "klagg_auditor_weight_wait_seconds": "How long the next call waits for weight.",
    # clock
    "klagg_clock_clock_age_seconds": "Time since the exchange's clock was last observed.",
    "klagg_clock_clock_delay_seconds": "Half of the round trip to the exchange's clock.",
    "klagg_clock_clock_offset_seconds": "The exchange's clock minus this machine's.",
    "klagg_clock_clock_speed": "Exchange seconds a second.",
    "klagg_clock_contract_news_total": "Listings and changes that !contractInfo named.",
    "klagg_clock_control_messages_total": "Messages of the control connection.",
    "klagg_clock_control_rejected_total": "Of them those that cannot be read.",
    "klagg_clock_events_total": "News of contracts and tickers.",
    "klagg_clock_halted_symbols": "Symbols that are listed and neither trade nor are over.",
    "klagg_clock_listings_total": "Answers of exchangeInfo that were used.",
    "klagg_clock_malformed_listings_total": "Answers of exchangeInfo with symbols that cannot be used.",
    "klagg_clock_reconnects_total": "New connections after a loss, by reason.",
    "klagg_clock_symbols": "Symbols that are listed.",
    "klagg_clock_sync_failures_total": "Of them those that failed.",
    "klagg_clock_sync_lost_total": "How often the exchange's time was lost.",
    "klagg_clock_syncs_total": "Round trips to the exchange's clock.",
    "klagg_clock_ticks_dropped_total": "Ticks that Redis did not take.",
    "klagg_clock_ticks_held_seconds": "How far the last tick is before the estimate.",
    "klagg_clock_ticks_total": "Ticks written.",
    "klagg_clock_time_went_back_total": "Ticks that repeat the last one because the estimate went back.",
    "klagg_clock_triggers_dropped_total": "Triggers that Redis did not take.",
    "klagg_clock_triggers_total": "Triggers written.",
    "klagg_clock_unknown_words_total": "Words of the exchange that nobody has seen, by kind.",
    "klagg_clock_vanished_listings_total": "Symbols that exchangeInfo lacked.",
    "klagg_clock_weight_limit": "REST weight that the address may use in a minute.",
    "klagg_clock_weight_of_minute": "REST weight used in this minute, as the exchange reports it.",
    # gateway
    "klagg_gateway_bars_kept": "Bars in memory.",
    "klagg_gateway_bars_total": "Bars that changed.",
    "klagg_gateway_clients": "WebSockets open.",
    "klagg_gateway_clients_dismissed_total": "Clients that read too slowly or wrote too much.",
    "klagg_gateway_connections_idle_total": "Connections closed because nothing came.",
    "klagg_gateway_connections_refused_total": "WebSockets refused.",
    "klagg_gateway_connections_total": "WebSockets accepted.",
    "klagg_gateway_downloads_failed_total": "Files that ended early.",
    "klagg_gateway_downloads_total": "Files sent.",
    "klagg_gateway_entries_total": "Entries of `live` read.",
    "klagg_gateway_frames_sent": "Frames sent since the start.",
    "klagg_gateway_loads_total": "Loads of a shard's whole state.",
    "klagg_gateway_pulls_failed_total": "Reads of Redis that failed.",
    "klagg_gateway_rejected_total": "Entries left out because they cannot be read.",
    "klagg_gateway_requests_failed_total": "Requests that ended with an error of klagg.",
    "klagg_gateway_requests_refused_total": "Requests refused for their weight.",
    "klagg_gateway_requests_total": "Requests answered.",
    "klagg_gateway_sequence_gaps_total": "Missing entries of `live`, after which a shard is loaded again.",
    "klagg_gateway_stale_seconds": "Since when a stream has not moved on, by stream.",
    "klagg_gateway_streams": "Streams that clients are subscribed to.",
    "klagg_gateway_surveys_failed_total": "Looks at processes and streams that failed.",
    "klagg_gateway_timeouts": "Reads without an entry, by stream.",
    # ingest
    "klagg_ingest_buffered": "Entries that wait to be written.",
    "klagg_ingest_bytes_total": "Bytes received.",
    "klagg_ingest_clock_age_seconds": "Time since the exchange's clock was last observed.",
    "klagg_ingest_clock_delay_seconds": "Half of the round trip to the exchange's clock.",
    "klagg_ingest_clock_offset_seconds": "The exchange's clock minus this machine's.",
    "klagg_ingest_clock_speed": "Exchange seconds a second.",
    "klagg_ingest_connection_bytes_total": "Bytes received, by connection.",
    "klagg_ingest_connection_messages_total": "Messages received, by connection.",
    "klagg_ingest_connection_silence_seconds": "Since when nothing came, by connection.",
    "klagg_ingest_connection_symbols": "Symbols, by connection.",
    "klagg_ingest_connection_trades_total": "Trades received, by connection.",
    "klagg_ingest_connection_up": "1 while the connection is open, by connection.",
    "klagg_ingest_connections": "Connections that are open.",
    "klagg_ingest_contract_news_total": "Listings and changes that !contractInfo named.",
    "klagg_ingest_control_messages_total": "Messages of the control connection.",
    "klagg_ingest_control_rejected_total": "Of them those that cannot be read.",
    "klagg_ingest_dead_symbols": "Symbols without trades though their tickers go on.",
    "klagg_ingest_delay_seconds": "How old the newest trade of the last batch was when it came, exchange time.",
    "klagg_ingest_dropped_trades_total": "Trades dropped before they were in the feed.",
    "klagg_ingest_dropped_watermarks_total": "Watermarks dropped.",
    "klagg_ingest_entries_total": "Feed entries written.",
    "klagg_ingest_events_total": "Messages with trades, and news of contracts.",
    "klagg_ingest_feed_full_total": "How often a feed was at its cap.",
    "klagg_ingest_feed_used_percent": "How much of its cap a feed takes, by feed.",
    "klagg_ingest_finer_than_listed_total": "Trades with more decimals than their symbol lists.",
    "klagg_ingest_hand_overs_total": "Connections replaced before the exchange ends them.",
    "klagg_ingest_listings_total": "Answers of exchangeInfo that were used.",
    "klagg_ingest_malformed_listings_total": "Answers of exchangeInfo with symbols that cannot be used.",
    "klagg_ingest_messages_total": "Messages received.",
    "klagg_ingest_reconnects_total": "New connections after a loss, by reason.",
    "klagg_ingest_rejected_total": "Messages rejected, by kind.",
    "klagg_ingest_replies_total": "Answers to client messages.",
    "klagg_ingest_sync_failures_total": "Of them those that failed.",
    "klagg_ingest_sync_lost_total": "How often the exchange's time was lost.",
    "klagg_ingest_syncs_total": "Round trips to the exchange's clock.",
    "klagg_ingest_trades_total": "Trades received.",
    "klagg_ingest_unknown_words_total": "Words of the exchange that nobody has seen, by kind.",
    "klagg_ingest_weight_limit": "REST weight that the address may use in a minute.",
    "klagg_ingest_weight_of_minute": "REST weight used in this minute, as the exchange reports it.",
    "klagg_ingest_write_failures_total": "Writes to Redis that failed.",
    # repair
    "klagg_repair_answers_total": "Answers of the exchange's REST API.",
    "klagg_repair_calls_total": "REST calls.",
    "klagg_repair_clock_age_seconds": "Time since the exchange's clock was last observed.",
    "klagg_repair_clock_delay_seconds": "Half of the round trip to the exchange's clock.",
    "klagg_repair_clock_offset_seconds": "The exchange's clock minus this machine's.",
    "klagg_repair_clock_speed": "Exchange seconds a second.",
    "klagg_repair_dead_total": "Requests that cannot be used and are in `dead`.",
    "klagg_repair_dropped_trades_total": "Trades dropped before they were in the feed.",
    "klagg_repair_entries_total": "Feed entries written.",
    "klagg_repair_expired_total": "Requests whose deadline had passed.",
    "klagg_repair_failures_total": "Calls that failed.",
    "klagg_repair_feed_full_total": "How often a feed was at its cap.",
    "klagg_repair_feed_used_percent": "How much of its cap a feed takes, by feed.",
    "klagg_repair_klines_total": "Klines that repair brought.",
    "klagg_repair_missing_total": "Ids that the exchange lacks.",
    "klagg_repair_reclaimed_total": "Requests taken over from a consumer that is away.",
    "klagg_repair_refused_total": "Calls that the exchange refused.",
    "klagg_repair_requests_total": "Requests read.",
    "klagg_repair_served_total": "Requests served.",
    "klagg_repair_sync_failures_total": "Of them those that failed.",
    "klagg_repair_sync_lost_total": "How often the exchange's time was lost.",
    "klagg_repair_syncs_total": "Round trips to the exchange's clock.",
    "klagg_repair_trades_total": "Trades that repair brought.",
    "klagg_repair_unrepaired_total": "Requests that ended without all that they requested.",
    "klagg_repair_waiting": "Requests that wait.",
    "klagg_repair_weight_limit": "REST weight that the address may use in a minute.",
    "klagg_repair_weight_of_minute": "REST weight used in this minute, as the exchange reports it.",
    "klagg_repair_weight_total": "REST weight spent.",
    "klagg_repair_weight_wait_seconds": "How long the next call waits for weight.",
    "klagg_repair_write_failures_total": "Writes to Redis that failed.",
    # writer
    "klagg_writer_bad_bars_total": "Bars in progress that cannot be read.",
    "klagg_writer_bars_total": "Bars in progress written.",
    "klagg_writer_days_counted_total": "Days counted anew.",
    "klagg_writer_dead_total": "Entries that cannot be used and are in `dead`.",
    "klagg_writer_duplicates_total": "Klines that the table had already.",
    "klagg_writer_entries_total": "Entries read.",
    "klagg_writer_history_total": "Rows of history written.",
    "klagg_writer_klines_total": "Klines taken.",
    "klagg_writer_lag": "Entries that wait to be read, by stream.",
    "klagg_writer_lost_total": "Entries that were gone before they were read.",
    "klagg_writer_reclaimed_total": "Entries taken over from a consumer that is away.",
    "klagg_writer_retries_total": "Transactions repeated.",
    "klagg_writer_rows_total": "Rows written.",
    "klagg_writer_snapshots_cut_short_total": "Snapshots ended before their last bar.",
    "klagg_writer_snapshots_skipped_total": "Snapshots skipped because one was under way.",
    "klagg_writer_snapshots_total": "Snapshots written.",
}
"""What each metric means. A metric that is not named here has its statistic's name as its help text."""


def counters_of(process: str) -> list[str]:
    """The statistics that a process may count, from the names of its metrics."""
    prefix = family_of(process, "")[0]
    return [
        name.removeprefix(prefix).removesuffix("_total")
        for name in METRICS
        if name.startswith(prefix) and name.endswith("_total")
    ]
