"""The exchange's REST errors: HTTP status and the body {"code", "msg"}."""

from __future__ import annotations


class ApiError(Exception):
    """A REST request is answered with an error. Attributes: `status` (HTTP), `code` (the exchange's), `message`."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def body(self) -> dict[str, object]:
        """The JSON body."""
        return {"code": self.code, "msg": self.message}


def mandatory(parameter: str) -> ApiError:
    """A mandatory parameter is missing."""
    return ApiError(-1102, f"Mandatory parameter '{parameter}' was not sent, was empty/null, or malformed.")


def illegal_characters(parameter: str) -> ApiError:
    """A number parameter is no number."""
    return ApiError(-1100, f"Illegal characters found in parameter '{parameter}'; legal range is '^[0-9]{{1,20}}$'.")


def invalid_symbol() -> ApiError:
    """The symbol does not exist."""
    return ApiError(-1121, "Invalid symbol.")


def not_authorized() -> ApiError:
    """The token is missing or wrong."""
    return ApiError(-2015, "Invalid API-key, IP, or permissions for action.", status=401)


def busy() -> ApiError:
    """A request wants more than one answer may hold."""
    return ApiError(-1008, "Server is currently overloaded with other requests. Please try again later.", status=503)


def unavailable() -> ApiError:
    """What the answer comes from is away for now."""
    return ApiError(-1001, "Internal error; unable to process your request. Please try again.", status=503)


def not_ready(waits_for: str) -> ApiError:
    """The server has just started and would answer with a part; the code is that of DISCONNECTED."""
    return ApiError(-1001, f"Service Unavailable. This server waits for {waits_for}. Please try again.", status=503)


def invalid_interval() -> ApiError:
    """The interval does not exist."""
    return ApiError(-1120, "Invalid interval.")


def invalid_data(parameter: str) -> ApiError:
    """A parameter is out of its range."""
    return ApiError(-1130, f"Data sent for parameter '{parameter}' is not valid.")


def start_after_end() -> ApiError:
    """startTime lies behind endTime."""
    return ApiError(-1023, "Start time is greater than end time.")


def interval_too_big() -> ApiError:
    """startTime and endTime of aggTrades lie more than an hour apart."""
    return ApiError(-1127, "Lookup interval is too big. More than 1 hours between startTime and endTime.")


def unsupported(why: str) -> ApiError:
    """The server cannot do this as it is configured."""
    return ApiError(-1020, f"This operation is not supported. {why}")


def unknown_path(path: str, method: str) -> ApiError:
    """No such endpoint."""
    return ApiError(-5000, f"Path {path}, Method {method} is invalid", status=404)


def too_many_requests(weight_per_minute: int) -> ApiError:
    """The weight of this minute is used up."""
    message = (
        f"Too many requests; current limit is {weight_per_minute} request weight per minute. "
        "Use the websocket for live updates to avoid polling the API."
    )
    return ApiError(-1003, message, status=429)


def banned(address: str, until_ms: int) -> ApiError:
    """The address went on after 429."""
    message = (
        f"Way too many requests; IP({address}) banned until {until_ms}. "
        "Use the websocket for live updates to avoid bans."
    )
    return ApiError(-1003, message, status=418)


def turned_away(address: str, status: int, retry_after_s: int, weight_per_minute: int, now_s: float) -> ApiError:
    """A request is refused with this status whatever it requests; `now_s` is the real time since 1970."""
    if status == 429:
        return too_many_requests(weight_per_minute)
    if status == 418:
        return banned(address, int(now_s + retry_after_s) * 1000)
    return ApiError(-1000, "An unknown error occurred while processing the request.", status)
