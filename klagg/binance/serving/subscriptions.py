"""The messages with which a client changes its subscriptions, and the exchange's answers. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_PROPERTY = "combined"

NAME_CHARS_MAX = 128
"""The longest name of a stream that is remembered."""

ID_CHARS_MAX = 64
"""The longest text that is taken as the id of a request."""

RequestId = int | str


class TooManyStreamsError(Exception):
    """The connection subscribes to more streams than one connection may have."""


class _RefusedError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(slots=True)
class Subscriptions:
    """The streams of one connection's subscriptions, known or not, and whether its payloads are wrapped (`combined`).

    `text_ids` lets requests bear a short text as their id, as newer clients like to; the exchange's USDⓈ-M sockets want
    a number.
    """

    combined: bool
    streams_max: int
    streams: dict[str, None] = field(default_factory=dict)
    text_ids: bool = False

    def add(self, names: Iterable[str]) -> list[str]:
        """Adds streams and returns those that are new. Raises TooManyStreamsError before adding any too many."""
        new = [name for name in dict.fromkeys(names) if name not in self.streams]
        if len(self.streams) + len(new) > self.streams_max:
            raise TooManyStreamsError
        self.streams.update(dict.fromkeys(new))
        return new

    def remove(self, names: Iterable[str]) -> list[str]:
        """Removes streams and returns those that were there."""
        return [name for name in dict.fromkeys(names) if self.streams.pop(name, "absent") is None]


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply to one control message, with the streams that it added and removed."""

    text: str
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def answer(subscriptions: Subscriptions, text: str) -> Answer:
    """Carries out a control message on `subscriptions`. Raises TooManyStreamsError; bad requests are answered."""
    request_id: RequestId | None = None
    try:
        request = _parse(text)
        request_id = _request_id(request, subscriptions.text_ids)
        return _carry_out(subscriptions, request, request_id)
    except _RefusedError as refusal:
        return Answer(_json({"error": {"code": refusal.code, "msg": refusal.message}, "id": request_id}))


def _parse(text: str) -> dict[str, Any]:
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):
        raise _RefusedError(3, "Invalid JSON: expected value at line 1 column 1") from None
    if not isinstance(request, dict):
        raise _RefusedError(2, "Invalid request: expected an object")
    return request


def _request_id(request: dict[str, Any], text_ids: bool) -> RequestId:
    value = request.get("id")
    if text_ids and isinstance(value, str) and len(value) <= ID_CHARS_MAX:
        return value
    if type(value) is not int or value < 0:
        raise _RefusedError(2, "Invalid request: request ID must be an unsigned integer")
    return value


def _carry_out(subscriptions: Subscriptions, request: dict[str, Any], request_id: RequestId) -> Answer:
    match request.get("method"):
        case None:
            raise _RefusedError(2, f"Invalid request: missing field `method` at line 1 column {len(_json(request))}")
        case "SUBSCRIBE":
            return Answer(_result(None, request_id), added=subscriptions.add(_names(request)))
        case "UNSUBSCRIBE":
            return Answer(_result(None, request_id), removed=subscriptions.remove(_names(request)))
        case "LIST_SUBSCRIPTIONS":
            return Answer(_result(list(subscriptions.streams), request_id))
        case "SET_PROPERTY":
            subscriptions.combined = _new_property(request)
            return Answer(_result(None, request_id))
        case "GET_PROPERTY":
            _check_property(_params(request)[:1])
            return Answer(_result(subscriptions.combined, request_id))
        case method:
            expected = ", ".join(f"`{name}`" for name in _METHODS)
            raise _RefusedError(2, f"Invalid request: unknown variant `{method}`, expected one of {expected}")


def _params(request: dict[str, Any]) -> list[Any]:
    params = request.get("params")
    if not isinstance(params, list):
        raise _RefusedError(2, "Invalid request: params must be an array")
    return params


def _names(request: dict[str, Any]) -> list[str]:
    params = _params(request)
    if not all(isinstance(name, str) for name in params):
        raise _RefusedError(2, "Invalid request: stream name must be a string")
    if any(len(name) > NAME_CHARS_MAX for name in params):
        raise _RefusedError(2, f"Invalid request: a stream name is longer than {NAME_CHARS_MAX} characters")
    return params


def _check_property(name: list[Any]) -> None:
    if not name or not isinstance(name[0], str):
        raise _RefusedError(2, "Invalid request: property name must be a string")
    if name[0] != _PROPERTY:
        raise _RefusedError(0, "Unknown property")


def _new_property(request: dict[str, Any]) -> bool:
    params = _params(request)
    if len(params) > 2:
        raise _RefusedError(2, "Invalid request: too many parameters")
    _check_property(params[:1])
    if len(params) < 2 or not isinstance(params[1], bool):
        raise _RefusedError(1, "Invalid value type: expected Boolean")
    return params[1]


def _result(result: object, request_id: RequestId) -> str:
    return _json({"result": result, "id": request_id})


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
