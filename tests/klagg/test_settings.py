"""Settings: defaults stand in config/klagg.toml, mistakes end the start with one sentence."""

from pathlib import Path

import pytest

from klagg.errors import ConfigError
from klagg.settings import Settings, from_tree, load, to_toml

ROOT = Path(__file__).resolve().parents[2]


def test_config_file_states_every_default() -> None:
    assert load(ROOT / "config" / "klagg.toml", {}) == Settings()
    text = (ROOT / "config" / "klagg.toml").read_text(encoding="utf-8")
    written = {line.split("=")[0].strip() for line in text.splitlines() if "=" in line and not line.startswith("#")}
    known = {line.split("=")[0].strip() for line in to_toml(Settings()).splitlines() if "=" in line}
    assert written == known


def test_toml_round_trip(tmp_path: Path) -> None:
    changed = from_tree({"data_dir": 'a "quoted" \\ path', "exchange": {"symbols": ["BTCUSDT", "币安人生USDT"]}})
    (tmp_path / "x.toml").write_text(to_toml(changed), encoding="utf-8")
    assert load(tmp_path / "x.toml", {}) == changed


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"redis": {"ulr": "x"}}, "unknown setting redis.ulr"),
        ({"redsi": {}}, "unknown setting redsi"),
        ({"ingest": {"mark_ms": 500}}, "the setting ingest.mark_ms is called ingest.watermark_ms now"),
        ({"aggregator": {"grace_unmarked_ms": 1}}, "is called aggregator.grace_without_watermark_ms now"),
        ({"redis": {"block_ms": "200"}}, "redis.block_ms must be a whole number"),
        ({"redis": {"block_ms": 5000}}, "redis.block_ms is 5000: it must be between 1 and 2500"),
        ({"database": {"enabled": 1}}, "database.enabled must be true or false"),
        ({"aggregator": {"intervals": ["1m", "7m"]}}, "unknown interval '7m'"),
        ({"aggregator": {"intervals": []}}, "aggregator.intervals is empty"),
        ({"aggregator": {"intervals": ["5s", "5m"]}}, "aggregator.intervals lacks 1m"),
        ({"rest": {"share_repair_percent": 19}}, "rest.share_repair_percent is 19: it must be between 20 and 99"),
        ({"rest": {"share_repair_percent": 90, "share_clock_percent": 11}}, "it must be between 1 and 10"),
        ({"rest": {"share_backfill_percent": 1}}, "rest.share_backfill_percent is 1: it must be between 2 and 90"),
        ({"exchange": {"source": "trades"}}, "exchange.source is 'trades'"),
        ({"exchange": 5}, "exchange must be a section"),
        ({"exchange": {"symbols": ["btcusdt"]}}, "exchange.symbols names 'btcusdt': a symbol is written in capitals"),
        ({"exchange": {"symbols": ["BTCUSDT", ""]}}, "exchange.symbols names ''"),
        ({"exchange": {"symbols": ["BTC,ETH"]}}, "exchange.symbols names 'BTC,ETH'"),
        ({"clock": {"statuses_s": 0}}, "clock.statuses_s"),
    ],
)
def test_mistakes_are_named(tree: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace(".", r"\.")):
        from_tree(tree)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml", {})
    (tmp_path / "bad.toml").write_text("a = ", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(tmp_path / "bad.toml", {})


def test_environment_overrides_and_refuses_typos() -> None:
    environment = {
        "KLAGG_REDIS__URL": "redis://h:1/0",
        "KLAGG_EXCHANGE__SYMBOLS": "A,B",
        "KLAGG_CACHE": "x",
        "KLAGG_SHARDS": "3",
        "HOME": "/",
    }
    settings = load(None, environment)
    assert settings.redis.url == "redis://h:1/0"
    assert settings.exchange.symbols == ("A", "B")
    assert settings.shards == 3
    with pytest.raises(ConfigError, match="KLAGG_REDIS__ULR names no setting"):
        load(None, {"KLAGG_REDIS__ULR": "x"})
    with pytest.raises(ConfigError, match=r"names no setting: ingest\.mark_ms is called ingest\.watermark_ms now"):
        load(None, {"KLAGG_INGEST__MARK_MS": "500"})
    with pytest.raises(ConfigError, match="must be a whole number"):
        load(None, {"KLAGG_CLOCK__TICK_MS": "fast"})


def test_the_streams_may_take_60_percent_of_redis_together() -> None:
    assert from_tree({"streams": {"feed_percent": 33}}).streams.feed_percent == 33
    with pytest.raises(ConfigError, match=r"add up to 61 percent .* at most 60"):
        from_tree({"streams": {"feed_percent": 34}})
    with pytest.raises(ConfigError, match=r"streams.dead_percent is 0"):
        from_tree({"streams": {"dead_percent": 0}})
