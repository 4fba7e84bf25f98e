"""The error tree. A docstring is the default message; errors carry their facts as fields; people read sentences."""

from __future__ import annotations

from collections.abc import Mapping


class KlaggError(Exception):
    """Something klagg cannot do; the message is one sentence."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class ConfigError(KlaggError):
    """The configuration cannot be used."""

    exit_code = 2


class UnknownInterval(ConfigError):
    """The interval is not one that klagg knows."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown interval {name!r}: klagg knows {' '.join(known)}")
        self.name = name


class BadDecimal(KlaggError):
    """A text is not a non-negative plain decimal that fits klagg's integers."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"{text!r} is not a usable decimal: {reason}")
        self.text = text
        self.reason = reason


class ContractError(KlaggError):
    """A stream entry does not keep the contract of klagg.wire.entries."""


class RedisUnavailable(KlaggError):
    """Redis does not answer."""


class RedisRefused(KlaggError):
    """Redis answered with an error."""


class CommitConflict(KlaggError):
    """Another aggregator owns this shard, or Redis is not where this process left it.

    `found` is the position hash that Redis holds, None where it changed during the commit and was not seen.
    """

    def __init__(self, message: str = "", *, found: Mapping[bytes, bytes] | None = None) -> None:
        super().__init__(message)
        self.found = found


class RedisOlder(CommitConflict):
    """Redis came back older than what this process has committed."""


class CommitDoubt(KlaggError):
    """The reply of a commit was lost, so nobody knows whether it took place."""


class DatabaseUnavailable(KlaggError):
    """The database does not answer, or cannot serve now: the same request is worth repeating later."""


class DatabaseRefused(KlaggError):
    """The database answered with an error: the same request will fail again.

    `sqlstate` is its five-character code (PostgreSQL's appendix A).
    """

    def __init__(self, message: str, *, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class ExchangeUnavailable(KlaggError):
    """The exchange does not answer."""


class ExchangeRefused(KlaggError):
    """The exchange answered with an error.

    `status` is the HTTP status, `code` Binance's own error code (0 if none), `retry_after_s` the pause that the
    exchange demands with 429 and 418 (0: none).
    """

    def __init__(self, message: str, *, status: int, code: int = 0, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class RecordingError(KlaggError):
    """A recording cannot be read.

    `path` names the file, `where` the line or item (1-based, 0 if it is the whole file).
    """

    def __init__(self, path: str, where: int, reason: str) -> None:
        place = f"{path}, line or item {where}" if where else path
        super().__init__(f"{place}: {reason}")
        self.path = path
        self.where = where
        self.reason = reason


class ArithmeticOverflow(KlaggError):
    """A sum would no longer fit 64-bit integers; klagg never wraps."""


class EmbeddedServerError(KlaggError):
    """An embedded server could not be brought up."""
