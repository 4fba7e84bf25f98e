"""Settings: one frozen tree, read once from TOML and environment; an unknown key or a wrong type ends the start.

Every setting stands with its default and meaning in config/klagg.toml; a test holds the two together. The environment
overrides single values: `KLAGG_REDIS__URL` is `url` in `[redis]`; lists are comma-separated.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from klagg.configtree import RENAMED, between, build, from_text, one_of, toml_line
from klagg.edge_splits import EDGES, EXCHANGE_EDGES
from klagg.errors import ConfigError
from klagg.intervals import BINANCE_INTERVALS, MINUTE, ordered

ENVIRONMENT_PREFIX = "KLAGG_"
LINE_NAME = re.compile(r"[A-Z][A-Z0-9]{0,7}")
"""What a line of ingest may be called: A, B, A2."""
SYMBOL_NAME = re.compile(r"[^\W_][\w.-]{0,63}")
"""What a symbol may be called: letters of any script, digits, `_`, `.`, `-`. Names become parts of columns and keys."""

DAYS_MAX = 36_500
"""The longest retention that can be asked for; 0 is for ever."""

STREAMS_PERCENT_MAX = 60
"""What all streams together may take of Redis' memory."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Section `exchange`: where the exchange is, which symbols, and how klagg connects."""

    websocket_url: str = "wss://fstream.binance.com"
    rest_url: str = "https://fapi.binance.com"
    source: str = "aggTrade"
    endpoint: str = "combined"
    quote_assets: tuple[str, ...] = ("USDT",)
    contract_types: tuple[str, ...] = ("PERPETUAL",)
    symbols: tuple[str, ...] = ()
    symbols_per_connection: int = 100
    connection_age_s: int = 82_800
    proxy: str = ""

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        one_of("exchange.source", self.source, ("aggTrade", "trade"))
        one_of("exchange.endpoint", self.endpoint, ("combined", "raw"))
        for name in self.symbols:
            if not SYMBOL_NAME.fullmatch(name) or name != name.upper():
                raise ConfigError(f"exchange.symbols names {name!r}: a symbol is written in capitals, such as BTCUSDT")
        between("exchange.symbols_per_connection", self.symbols_per_connection, 1, 1024)
        between("exchange.connection_age_s", self.connection_age_s, 1, 86_400)
        if self.proxy and not re.fullmatch(r"(http|socks5h?)://\S+", self.proxy):
            raise ConfigError("exchange.proxy must be empty or begin with http://, socks5:// or socks5h://")


@dataclass(frozen=True, slots=True)
class Redis:
    """Section `redis`: the server, its memory, and how long klagg waits for it."""

    url: str = ""
    maxmemory_mb: int = 2048
    timeout_ms: int = 5000
    block_ms: int = 200

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        between("redis.maxmemory_mb", self.maxmemory_mb, 64, 1 << 20)
        between("redis.timeout_ms", self.timeout_ms, 100, 60_000)
        between("redis.block_ms", self.block_ms, 1, self.timeout_ms // 2)


@dataclass(frozen=True, slots=True)
class Database:
    """Section `database`: TimescaleDB, and whether there is one."""

    url: str = ""
    enabled: bool = True

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""


@dataclass(frozen=True, slots=True)
class Ingest:
    """Section `ingest`: lines, batches, buffers and when silence is suspect."""

    batch_ms: int = 5
    batch_rows: int = 512
    future_ms_max: int = 10_000
    watermark_ms: int = 1000
    buffer_mb_max: int = 64
    lines: tuple[str, ...] = ("A", "B")
    dead_symbol_ms: int = 10_000
    stalled_ms: int = 10_000
    silent_s: int = 60
    buffer_s_max: int = 120

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        between("ingest.batch_ms", self.batch_ms, 1, 1000)
        between("ingest.batch_rows", self.batch_rows, 1, 65_536)
        between("ingest.future_ms_max", self.future_ms_max, 0, 600_000)
        between("ingest.watermark_ms", self.watermark_ms, 100, 60_000)
        between("ingest.buffer_mb_max", self.buffer_mb_max, 1, 65_536)
        between("ingest.dead_symbol_ms", self.dead_symbol_ms, 1000, 3_600_000)
        between("ingest.stalled_ms", self.stalled_ms, 1000, 600_000)
        between("ingest.silent_s", self.silent_s, 5, 3600)
        if not self.lines or len(set(self.lines)) != len(self.lines):
            raise ConfigError("ingest.lines must name at least one line, and none twice")
        for line in self.lines:
            if not LINE_NAME.fullmatch(line):
                raise ConfigError(f"ingest.lines names {line!r}: a line is called by capital letters and digits")
        between("ingest.buffer_s_max", self.buffer_s_max, 1, 86_400)


@dataclass(frozen=True, slots=True)
class Clock:
    """Section `clock`: how often the clock process ticks and what it triggers."""

    tick_ms: int = 250
    sync_s: int = 10
    lost_s: int = 300
    listings_s: int = 3600
    statuses_s: int = 30
    witness_after_ms: int = 5000
    snapshot_s: int = 10
    retention_s: int = 3600
    days_s: int = 600

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        between("clock.tick_ms", self.tick_ms, 10, 10_000)
        between("clock.sync_s", self.sync_s, 1, 3600)
        between("clock.lost_s", self.lost_s, 1, 86_400)
        between("clock.listings_s", self.listings_s, 1, 86_400)
        between("clock.statuses_s", self.statuses_s, 1, 3600)
        between("clock.witness_after_ms", self.witness_after_ms, 0, 55_000)
        between("clock.snapshot_s", self.snapshot_s, 1, 86_400)
        between("clock.retention_s", self.retention_s, 1, 86_400)
        between("clock.days_s", self.days_s, 1, 86_400)


@dataclass(frozen=True, slots=True)
class Rest:
    """Section `rest`: the address' REST weight a minute (Binance's, "Exchange Information") and how roles share it."""

    weight_per_minute: int = 2400
    share_repair_percent: int = 60
    share_clock_percent: int = 10
    share_backfill_percent: int = 20
    share_pass_through_percent: int = 10

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        between("rest.weight_per_minute", self.weight_per_minute, 100, 1_000_000)
        # A request for trades weighs 20: the least limit's least share must be able to pay for one.
        between("rest.share_repair_percent", self.share_repair_percent, 20, 99)
        between("rest.share_clock_percent", self.share_clock_percent, 1, 100 - self.share_repair_percent)
        # A page of klines weighs 2.
        between("rest.share_backfill_percent", self.share_backfill_percent, 2, 100 - self.share_clock_percent)
        between("rest.share_pass_through_percent", self.share_pass_through_percent, 1, 100 - self.share_clock_percent)


@dataclass(frozen=True, slots=True)
class Repair:
    """Section `repair`: how long a request may wait."""

    waiting_max: int = 5000
    calls_max: int = 8

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        between("repair.waiting_max", self.waiting_max, 10, 100_000)
        between("repair.calls_max", self.calls_max, 1, 64)


@dataclass(frozen=True, slots=True)
class Aggregator:
    """Section `aggregator`: intervals, window, grace and what is requested."""

    intervals: tuple[str, ...] = BINANCE_INTERVALS
    window_minutes: int = 180
    grace_ms: int = 2000
    grace_without_watermark_ms: int = 10_000
    live_long_ms: int = 1000
    ask_after_ms: int = 1000
    ask_trades_max: int = 20_000
    ask_weight_per_minute: int = 1080
    witness_margin_ms: int = 3000
    edges: str = EXCHANGE_EDGES

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        if not self.intervals:
            raise ConfigError("aggregator.intervals is empty: name at least one interval")
        if MINUTE not in ordered(self.intervals):
            raise ConfigError("aggregator.intervals lacks 1m: the minute is the unit in which the exchange's rows heal")
        between("aggregator.window_minutes", self.window_minutes, 5, 24 * 60)
        between("aggregator.grace_ms", self.grace_ms, 0, 600_000)
        between("aggregator.grace_without_watermark_ms", self.grace_without_watermark_ms, self.grace_ms, 3_600_000)
        between("aggregator.live_long_ms", self.live_long_ms, 0, 60_000)
        between("aggregator.ask_after_ms", self.ask_after_ms, 0, 60_000)
        between("aggregator.ask_trades_max", self.ask_trades_max, 1, 10_000_000)
        between("aggregator.ask_weight_per_minute", self.ask_weight_per_minute, 20, 1_000_000)
        between("aggregator.witness_margin_ms", self.witness_margin_ms, 0, 600_000)
        one_of("aggregator.edges", self.edges, EDGES)


@dataclass(frozen=True, slots=True)
class Persistence:
    """Section `persistence`: checkpoints, snapshots and how long rows are kept."""

    finalized_buffer_size: int = 5000
    finalized_flush_interval_ms: int = 1000
    snapshots: bool = True
    snapshot_intervals: tuple[str, ...] = ()
    retention_days: int = 0
    retention_short_days: int = 0

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        ordered(self.snapshot_intervals)
        between("persistence.retention_days", self.retention_days, 0, DAYS_MAX)
        between("persistence.retention_short_days", self.retention_short_days, 0, DAYS_MAX)
        between("persistence.finalized_buffer_size", self.finalized_buffer_size, 1, 100_000)
        between("persistence.finalized_flush_interval_ms", self.finalized_flush_interval_ms, 10, 60_000)


@dataclass(frozen=True, slots=True)
class Gateway:
    """Section `gateway`: address, limits on clients and what stays in memory."""

    host: str = "127.0.0.1"
    port: int = 8470
    token: str = ""
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    pass_through: bool = False
    pull_ms: int = 50
    pull_timeout_ms: int = 1000
    stale_ms: int = 3000
    finals_kept_s: int = 300
    connections_max: int = 2000
    streams_per_connection: int = 1024
    messages_per_second: int = 10
    client_buffer_kb: int = 1024
    ping_interval_s: int = 180
    idle_s: int = 30
    weight_per_minute: int = 2400
    database_connections: int = 4
    database_timeout_ms: int = 10_000

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        if not self.host:
            raise ConfigError("gateway.host is empty: 127.0.0.1 serves this machine alone")
        between("gateway.port", self.port, 0, 65_535)
        if self.token and not re.fullmatch(r"[\x21-\x7e]{8,200}", self.token):
            raise ConfigError("gateway.token must be 8 to 200 letters, digits and signs without spaces, or empty")
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ConfigError(f"gateway.cors_origins names {origin!r}: an origin is like https://host:port")
        for proxy in self.trusted_proxies:
            try:
                ip_network(proxy)
            except ValueError:
                raise ConfigError(
                    f"gateway.trusted_proxies names {proxy!r}: it takes addresses and networks such as 127.0.0.1 or "
                    "10.0.0.0/8"
                ) from None
        between("gateway.pull_ms", self.pull_ms, 5, 10_000)
        between("gateway.pull_timeout_ms", self.pull_timeout_ms, 100, 60_000)
        between("gateway.stale_ms", self.stale_ms, self.pull_timeout_ms, 600_000)
        between("gateway.finals_kept_s", self.finals_kept_s, 1, 86_400)
        between("gateway.connections_max", self.connections_max, 1, 100_000)
        between("gateway.streams_per_connection", self.streams_per_connection, 1, 100_000)
        between("gateway.messages_per_second", self.messages_per_second, 1, 10_000)
        between("gateway.client_buffer_kb", self.client_buffer_kb, 16, 1 << 20)
        between("gateway.ping_interval_s", self.ping_interval_s, 1, 3600)
        between("gateway.idle_s", self.idle_s, 1, 3600)
        between("gateway.weight_per_minute", self.weight_per_minute, 10, 10_000_000)
        between("gateway.database_connections", self.database_connections, 1, 64)
        between("gateway.database_timeout_ms", self.database_timeout_ms, 100, 600_000)


@dataclass(frozen=True, slots=True)
class Streams:
    """How much of Redis' maxmemory each kind of stream may take, in percent and over all shards."""

    feed_percent: int = 25
    klines_percent: int = 12
    events_percent: int = 6
    live_percent: int = 4
    requests_percent: int = 2
    findings_percent: int = 2
    dead_percent: int = 1

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        shares = {each.name: int(getattr(self, each.name)) for each in fields(self)}
        for name, share in shares.items():
            between(f"streams.{name}", share, 1, STREAMS_PERCENT_MAX)
        if sum(shares.values()) > STREAMS_PERCENT_MAX:
            raise ConfigError(
                f"the shares in [streams] add up to {sum(shares.values())} percent of Redis' memory: it must be at "
                f"most {STREAMS_PERCENT_MAX}, because a full Redis refuses even the commit"
            )


@dataclass(frozen=True, slots=True)
class Service:
    """Section `service`: heartbeat, statistics, shutdown and log level of every process."""

    statistics_s: int = 10
    heartbeat_ms: int = 1000
    heartbeat_ttl_s: int = 600
    silent_s: int = 10
    freeze_s: int = 45
    shutdown_s: int = 20
    log_level: str = "INFO"

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        between("service.statistics_s", self.statistics_s, 1, 3600)
        between("service.heartbeat_ms", self.heartbeat_ms, 100, 10_000)
        between("service.heartbeat_ttl_s", self.heartbeat_ttl_s, 2, 86_400)
        between("service.silent_s", self.silent_s, 1, 600)
        between("service.freeze_s", self.freeze_s, self.silent_s, 86_400)
        between("service.shutdown_s", self.shutdown_s, 1, 600)
        one_of("service.log_level", self.log_level, ("DEBUG", "INFO", "WARNING", "ERROR"))


@dataclass(frozen=True, slots=True)
class Audit:
    """Section `audit`: what auditors compare and how much they may use."""

    full: bool = True
    owed_ms: int = 5000
    lag_ms_max: int = 60_000
    settle_ms: int = 5000
    core_percent: int = 10
    group_silent_s: int = 30
    summary_s: int = 300
    weight_per_minute: int = 24

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        between("audit.owed_ms", self.owed_ms, 0, 3_600_000)
        between("audit.lag_ms_max", self.lag_ms_max, 1000, 3_600_000)
        between("audit.settle_ms", self.settle_ms, 100, 60_000)
        between("audit.core_percent", self.core_percent, 1, 100)
        between("audit.group_silent_s", self.group_silent_s, 5, 3600)
        between("audit.summary_s", self.summary_s, 1, 86_400)
        # The dearest page of klines weighs 2, and a look at the clock 1.
        between("audit.weight_per_minute", self.weight_per_minute, 3, 1_000_000)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Section `metrics`: where Prometheus finds the processes."""

    port_base: int = 0

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        between("metrics.port_base", self.port_base, 0, 65_000)
        if 0 < self.port_base < 1024:
            raise ConfigError(f"metrics.port_base is {self.port_base}: it must be 0 (off) or at least 1024")


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration. `shards` is how many aggregators share the symbols."""

    shards: int = 1
    data_dir: str = "data"
    exchange: Exchange = field(default_factory=Exchange)
    redis: Redis = field(default_factory=Redis)
    database: Database = field(default_factory=Database)
    ingest: Ingest = field(default_factory=Ingest)
    clock: Clock = field(default_factory=Clock)
    rest: Rest = field(default_factory=Rest)
    repair: Repair = field(default_factory=Repair)
    aggregator: Aggregator = field(default_factory=Aggregator)
    persistence: Persistence = field(default_factory=Persistence)
    gateway: Gateway = field(default_factory=Gateway)
    streams: Streams = field(default_factory=Streams)
    service: Service = field(default_factory=Service)
    audit: Audit = field(default_factory=Audit)
    metrics: Metrics = field(default_factory=Metrics)

    def check(self) -> None:
        """ConfigError, naming the setting, unless every value is in its range."""
        between("shards", self.shards, 1, 1024)
        for section in (
            self.exchange,
            self.redis,
            self.database,
            self.ingest,
            self.clock,
            self.rest,
            self.repair,
            self.aggregator,
            self.persistence,
            self.gateway,
            self.streams,
            self.service,
            self.audit,
            self.metrics,
        ):
            section.check()


def load(path: str | Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings from a TOML file (none: defaults) and the environment; ConfigError in one sentence."""
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as bad:
            raise ConfigError(f"the configuration {path} cannot be read: {bad.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as bad:
            raise ConfigError(f"the configuration {path} is not TOML: {bad}") from None
    settings = from_tree(tree, origin=str(path or "the defaults"))
    return _with_environment(settings, os.environ if environment is None else environment)


def from_tree(tree: Mapping[str, Any], origin: str = "the configuration") -> Settings:
    """Settings from nested mappings as TOML gives them."""
    settings: Settings = build(Settings, tree, "", origin)
    settings.check()
    return settings


def to_toml(settings: Settings) -> str:
    """The settings as TOML that `load` reads back to the same."""
    lines = [
        toml_line(each.name, getattr(settings, each.name))
        for each in fields(settings)
        if not _is_section(settings, each.name)
    ]
    for each in fields(settings):
        if _is_section(settings, each.name):
            section = getattr(settings, each.name)
            lines += [
                "",
                f"[{each.name}]",
                *(toml_line(part.name, getattr(section, part.name)) for part in fields(section)),
            ]
    return "\n".join(lines) + "\n"


def _is_section(settings: Settings, name: str) -> bool:
    return is_dataclass(getattr(settings, name))


def _with_environment(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Single values from `KLAGG_<SECTION>__<NAME>`, or `KLAGG_<NAME>` for settings outside any section.

    Other variables that begin with KLAGG_ and hold no double underscore are not settings and are left alone.
    """
    tree = tomllib.loads(to_toml(settings))
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        section, found, name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        place, name = (tree.get(section), name) if found else (tree, section)
        if isinstance(place, dict) and name in place and not isinstance(place[name], dict):
            place[name] = from_text(variable, text, place[name])
        elif found:
            now = RENAMED.get(f"{section}.{name}")
            why = f": {section}.{name} is called {now} now" if now else ""
            raise ConfigError(f"the environment variable {variable} names no setting{why}")
    return from_tree(tree, origin="the environment")
