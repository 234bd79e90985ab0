"""Validates the address of a Redis server and its options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

_NUMBER = re.compile(r"\d{1,9}")
_CLIENT_NAME = re.compile(r"[!-~]+")
_DATABASE_PATH = re.compile(r"/?\d{0,9}/?")


def _text(_: str) -> str | None:
    return None


def _number(value: str) -> str | None:
    return None if _NUMBER.fullmatch(value) else "must be a whole number"


def _seconds(value: str) -> str | None:
    try:
        return None if 0 < float(value) < float("inf") else "must be a number of seconds greater than 0"
    except ValueError:
        return "must be a number of seconds"


def _client_name(value: str) -> str | None:
    return None if _CLIENT_NAME.fullmatch(value) else "must have no spaces and no special characters"


def _flag(value: str) -> str | None:
    return None if value.lower() in ("true", "false", "yes", "no", "1", "0") else "must be true or false"


def _cert_reqs(value: str) -> str | None:
    return None if value in ("none", "optional", "required") else "must be one of: none, optional, required"


FILES = ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_ca_path")
"""Options that are paths."""

_FOR_TLS: Mapping[str, Callable[[str], str | None]] = {
    **dict.fromkeys(FILES, _text),
    "ssl_cert_reqs": _cert_reqs,
    "ssl_check_hostname": _flag,
    "ssl_ca_data": _text,
    "ssl_ciphers": _text,
    "ssl_password": _text,
}

OPTIONS: Mapping[str, Callable[[str], str | None]] = {
    "db": _number,
    "username": _text,
    "password": _text,
    "client_name": _client_name,
    "socket_connect_timeout": _seconds,
    "socket_keepalive": _flag,
    "health_check_interval": _number,
    **_FOR_TLS,
}
"""Options allowed after the `?`. The source sets all others, such as time-outs and the pool."""


def redis_address(value: Any) -> str | None:
    """The problem with an address, or None. The text contains no option's value."""
    if not (isinstance(value, str) and re.match(r"(rediss?|unix)://.", value)):
        return "must be an address such as redis://host:6379/0"
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return "must be an address such as redis://host:6379/0, with a numeric port"
    if parts.scheme != "unix" and not _DATABASE_PATH.fullmatch(parts.path):
        return "must give the database as a number, as in redis://host:6379/0"
    return next(filter(None, (_wrong(parts, name, values[0]) for name, values in options_of(value).items())), None)


def options_of(address: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(address).query)


def _wrong(parts: SplitResult, name: str, value: str) -> str | None:
    check = OPTIONS.get(name)
    if check is None:
        return f"must not set {name} after the '?'; leave it out (an address may set: {', '.join(OPTIONS)})"
    if name in _FOR_TLS and parts.scheme != "rediss":
        return f"sets {name}, which needs a rediss:// address"
    wrong = check(value)
    return wrong and f"sets {name}, which {wrong}"
