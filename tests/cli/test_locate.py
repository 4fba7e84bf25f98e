"""Finding the settings of the klagg that runs here."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from klagg.cli.locate import NothingRuns, add_arguments, data_directory, running_settings
from klagg.embedded import RedisServer, traces
from klagg.errors import ConfigError
from klagg.settings import Redis, Settings, to_toml

AWAY = "redis://127.0.0.1:1/0"


def asked(*options: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return running_settings(parser.parse_args(options))


def left_by_up(data: Path, source: str, url: str, age_s: float = 0) -> None:
    """The settings that `klagg up` leaves, written `age_s` ago."""
    path = data / source / "klagg.toml"
    path.parent.mkdir(parents=True)
    path.write_text(to_toml(Settings(data_dir=f"from {source}", redis=Redis(url=url))), encoding="utf-8")
    written = path.stat().st_mtime - age_s
    os.utime(path, (written, written))


def test_a_configuration_with_a_redis_counts_as_it_stands(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(f'shards = 3\n[redis]\nurl = "{AWAY}"\n', encoding="utf-8")
    assert asked("--config", str(config)).shards == 3


def test_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLAGG_REDIS__URL", AWAY)
    assert asked().redis.url == AWAY


@pytest.mark.servers
def test_the_newest_that_answers_is_taken(redis_url: str, tmp_path: Path) -> None:
    left_by_up(tmp_path, "sim", AWAY)
    left_by_up(tmp_path, "live", redis_url, age_s=60)
    left_by_up(tmp_path, "recorded-1", redis_url, age_s=120)
    assert asked("--data-dir", str(tmp_path)).data_dir == "from live"


@pytest.mark.servers
def test_a_named_data_directory_beats_the_environment(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLAGG_REDIS__URL", AWAY)
    left_by_up(tmp_path, "live", redis_url)
    assert asked("--data-dir", str(tmp_path)).redis.url == redis_url


@pytest.mark.servers
def test_a_configuration_without_redis_leads_to_its_data_directory(redis_url: str, tmp_path: Path) -> None:
    left_by_up(tmp_path / "here", "sim", redis_url)
    config = tmp_path / "mine.toml"
    config.write_text(f'data_dir = "{tmp_path / "here"}"\n', encoding="utf-8")
    assert asked("--config", str(config)).data_dir == "from sim"


@pytest.mark.servers
def test_a_stranger_on_the_port_of_an_embedded_redis_is_not_taken(redis_server: RedisServer, tmp_path: Path) -> None:
    left_by_up(tmp_path, "sim", redis_server.url)
    (tmp_path / "sim" / "redis").mkdir()
    traces.write(tmp_path / "sim" / "redis" / "port", f"{redis_server.port}\n")
    with pytest.raises(NothingRuns, match="nothing of klagg runs with its data in"):
        asked("--data-dir", str(tmp_path))


def test_nothing_runs_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NothingRuns, match="start `klagg up`") as raised:
        asked("--data-dir", str(tmp_path / "none"))
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 1


def test_settings_of_another_version_are_named_as_the_reason(tmp_path: Path) -> None:
    left_by_up(tmp_path, "sim", AWAY)
    (tmp_path / "sim" / "klagg.toml").write_text("no_longer = 1\n", encoding="utf-8")
    with pytest.raises(NothingRuns, match="unknown setting no_longer"):
        asked("--data-dir", str(tmp_path))


def test_a_configuration_that_cannot_be_read_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        asked("--config", str(tmp_path / "none.toml"))


def test_a_chosen_data_directory_stays_where_it_is(tmp_path: Path) -> None:
    assert data_directory(Settings(data_dir=str(tmp_path)), None) == tmp_path
    assert data_directory(Settings(), str(tmp_path)) == tmp_path
