from __future__ import annotations

import json
from typing import Any

import pytest

from klagg.binance.serving.subscriptions import Subscriptions, TooManyStreamsError, answer


def ask(subscriptions: Subscriptions, **request: Any) -> Any:
    return json.loads(answer(subscriptions, json.dumps(request)).text)


def test_subscribing_listing_and_unsubscribing() -> None:
    subscriptions = Subscriptions(combined=False, streams_max=10)
    reply = answer(subscriptions, '{"method":"SUBSCRIBE","params":["a@trade","b@trade","a@trade"],"id":1}')
    assert (json.loads(reply.text), reply.added) == ({"result": None, "id": 1}, ["a@trade", "b@trade"])
    assert answer(subscriptions, '{"method":"SUBSCRIBE","params":["a@trade"],"id":2}').added == []
    assert ask(subscriptions, method="LIST_SUBSCRIPTIONS", id=3) == {"result": ["a@trade", "b@trade"], "id": 3}
    reply = answer(subscriptions, '{"method":"UNSUBSCRIBE","params":["a@trade","c@trade"],"id":4}')
    assert (json.loads(reply.text), reply.removed) == ({"result": None, "id": 4}, ["a@trade"])
    assert ask(subscriptions, method="LIST_SUBSCRIPTIONS", id=5)["result"] == ["b@trade"]


def test_the_combined_property() -> None:
    subscriptions = Subscriptions(combined=False, streams_max=10)
    assert ask(subscriptions, method="GET_PROPERTY", params=["combined"], id=1) == {"result": False, "id": 1}
    assert ask(subscriptions, method="SET_PROPERTY", params=["combined", True], id=2) == {"result": None, "id": 2}
    assert subscriptions.combined


@pytest.mark.parametrize(
    ("text", "code", "message", "request_id"),
    [
        ("{", 3, "Invalid JSON", None),
        ("[" * 100_000, 3, "Invalid JSON", None),
        ("7", 2, "expected an object", None),
        ('{"method":"SUBSCRIBE","params":[]}', 2, "request ID must be an unsigned integer", None),
        ('{"method":"SUBSCRIBE","params":[],"id":-1}', 2, "request ID must be an unsigned integer", None),
        ('{"method":"SUBSCRIBE","params":[],"id":"x"}', 2, "request ID must be an unsigned integer", None),
        ('{"params":[],"id":1}', 2, "missing field `method`", 1),
        ('{"method":"DANCE","id":1}', 2, "unknown variant `DANCE`, expected one of `SUBSCRIBE`", 1),
        ('{"method":"SUBSCRIBE","id":1}', 2, "params must be an array", 1),
        ('{"method":"SUBSCRIBE","params":[1],"id":1}', 2, "stream name must be a string", 1),
        ('{"method":"GET_PROPERTY","params":[],"id":1}', 2, "property name must be a string", 1),
        ('{"method":"GET_PROPERTY","params":["x"],"id":1}', 0, "Unknown property", 1),
        ('{"method":"SET_PROPERTY","params":["combined",1],"id":1}', 1, "expected Boolean", 1),
        ('{"method":"SET_PROPERTY","params":["combined",true,1],"id":1}', 2, "too many parameters", 1),
    ],
)
def test_errors_are_answered(text: str, code: int, message: str, request_id: int | None) -> None:
    reply = json.loads(answer(Subscriptions(combined=True, streams_max=1), text).text)
    assert reply["error"]["code"] == code
    assert message in reply["error"]["msg"]
    assert reply["id"] == request_id


def test_one_stream_too_many() -> None:
    subscriptions = Subscriptions(combined=True, streams_max=1024)
    assert len(subscriptions.add(f"s{number}@trade" for number in range(1024))) == 1024
    assert subscriptions.add(["s5@trade"]) == []
    with pytest.raises(TooManyStreamsError):
        answer(subscriptions, '{"method":"SUBSCRIBE","params":["more@trade"],"id":1}')
    assert len(subscriptions.streams) == 1024
