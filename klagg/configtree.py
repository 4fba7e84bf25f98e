"""What settings are made of: dataclasses from nested mappings as TOML gives them and back, and the checks of values.

Whatever does not fit is a ConfigError of one sentence that names the setting and where it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Final, get_type_hints

from klagg.errors import ConfigError

RENAMED: Final = {
    "ingest.mark_ms": "ingest.watermark_ms",
    "aggregator.grace_unmarked_ms": "aggregator.grace_without_watermark_ms",
}
"""Settings of the version before this one that have another name now: the error for the old name gives the new one."""


def build(kind: Any, tree: Mapping[str, Any], prefix: str, origin: str) -> Any:
    """A `kind` of dataclass from a mapping. `prefix` is its section's, `origin` says where the mapping came from."""
    hints = get_type_hints(kind)
    unknown = sorted(set(tree) - set(hints))
    if unknown and (now := RENAMED.get(f"{prefix}{unknown[0]}")):
        raise ConfigError(f"{origin}: the setting {prefix}{unknown[0]} is called {now} now")
    if unknown:
        raise ConfigError(f"{origin}: unknown setting {prefix}{unknown[0]}; known here: {', '.join(sorted(hints))}")
    values: dict[str, Any] = {}
    for name, value in tree.items():
        expected = hints[name]
        if is_dataclass(expected):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{origin}: {prefix}{name} must be a section")
            values[name] = build(expected, value, f"{prefix}{name}.", origin)
        else:
            values[name] = _typed(f"{prefix}{name}", value, expected, origin)
    return kind(**values)


def _typed(name: str, value: Any, expected: Any, origin: str) -> Any:
    if expected == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ConfigError(f"{origin}: {name} must be a list of texts")
        return tuple(value)
    if type(value) is not expected:
        words = {int: "a whole number", str: "a text", bool: "true or false"}
        raise ConfigError(f"{origin}: {name} must be {words[expected]}, not {value!r}")
    return value


def toml_line(name: str, value: Any) -> str:
    """One setting as a line of TOML."""
    if isinstance(value, bool):
        return f"{name} = {str(value).lower()}"
    if isinstance(value, int):
        return f"{name} = {value}"
    if isinstance(value, tuple):
        return f"{name} = [{', '.join(_quoted(each) for each in value)}]"
    return f"{name} = {_quoted(value)}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def from_text(variable: str, text: str, like: Any) -> Any:
    """The value that the text of an environment variable means, of the same type as `like`."""
    if isinstance(like, bool):
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{variable} must be true or false, not {text!r}")
        return text.lower() == "true"
    if isinstance(like, int):
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{variable} must be a whole number, not {text!r}") from None
    return [each for each in text.split(",") if each] if isinstance(like, list) else text


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """ConfigError unless the value is one of these."""
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}: it must be one of {', '.join(choices)}")


def between(name: str, value: int, least: int, most: int) -> None:
    """ConfigError unless the value is in this range; both ends are."""
    if not least <= value <= most:
        raise ConfigError(f"{name} is {value}: it must be between {least} and {most}")
