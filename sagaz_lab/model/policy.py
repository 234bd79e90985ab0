"""Policies of a trigger for failures, load and bursts."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from sagaz_lab.errors import DefinitionError

Key = str | Callable[[Any], Any]
"""A payload field's name, or a function of the trigger method's argument."""

Duration = float | int | str | timedelta
"""Seconds, a `timedelta`, or a string such as "90s", "15m", "6h", "1d" or "1h30m"."""

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")


def seconds(value: Duration, name: str) -> float:
    """The duration in seconds. Raises `DefinitionError` naming the option `name`."""
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        result = float(value)
    elif isinstance(value, str) and re.fullmatch(rf"(?:\s*{_PART.pattern})+\s*", value):
        result = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(value))
    else:
        raise DefinitionError(f"{name}={value!r} is not a duration; use seconds, a timedelta or a string like '6h'")
    if not 0 < result < float("inf"):
        raise DefinitionError(f"{name}={value!r} must be positive and finite")
    return result


def positive(value: Any) -> bool:
    """Whether it is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def at_least(low: int, value: Any) -> bool:
    """Whether it is a whole number, `low` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


Backpressure = Literal["block", "drop_oldest", "drop_newest", "reject"]

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 300.0
"""Maximum delay of the exponential backoff, after the first attempt and after any later one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerConfig:
    """Settings for all events of a trigger; set on the decorator, else on the class, else on the Lab.

    A failed and compensated run is retried after `retry_backoff_seconds` (the last delay repeats; None: a random
    delay up to 1 s, 2 s, 4 s and so on, capped at 300 s), up to `max_retries` times and only while its event is
    younger than `retry_max_age`. Then it leaves a dead letter. A run whose process crashed more than `max_retries`
    times in the same action is not resumed again (but at least once). `queue_size` limits the waiting events of a
    trigger; `backpressure_strategy` decides about the next one. `persist_events` stores every event with its outcome.
    `event_retention_days` is how long claims and stored events are kept; the Lab's config applies to ended runs too.
    """

    dead_letter_topic: str | None = None
    max_retries: int = 3
    retry_backoff_seconds: Sequence[float] | float | None = (10.0, 60.0, 300.0)
    retry_max_age: Duration | None = None
    backpressure_strategy: Backpressure = "block"
    queue_size: int = 1000
    persist_events: bool = False
    event_retention_days: float = 30.0

    def __post_init__(self) -> None:
        if self.backpressure_strategy not in get_args(Backpressure):
            raise DefinitionError(
                f"backpressure_strategy={self.backpressure_strategy!r}; one of: {', '.join(get_args(Backpressure))}"
            )
        if not at_least(0, self.max_retries):
            raise DefinitionError(f"max_retries={self.max_retries!r} must be a whole number, 0 or more")
        if not at_least(1, self.queue_size):
            raise DefinitionError(f"queue_size={self.queue_size!r} must be a whole number, 1 or more")
        if self.retry_backoff_seconds is not None:
            delays = backoff(self.retry_backoff_seconds, "retry_backoff_seconds")
            object.__setattr__(self, "retry_backoff_seconds", delays)
        if self.retry_max_age is not None:
            seconds(self.retry_max_age, "retry_max_age")
        if not positive(self.event_retention_days):
            raise DefinitionError(f"event_retention_days={self.event_retention_days!r} must be greater than 0")
        if not isinstance(self.persist_events, bool):
            raise DefinitionError(f"persist_events={self.persist_events!r} must be True or False")
        topic = self.dead_letter_topic
        if not (topic is None or (isinstance(topic, str) and topic)):
            raise DefinitionError(f"dead_letter_topic={topic!r} must be a name")

    def retry_delay_s(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number `attempt`, counted from 1."""
        delays = self.retry_backoff_seconds
        if delays is None:
            # Full jitter: runs that failed together, as in an outage, do not all retry at once.
            return random.uniform(0.0, self.longest_retry_delay_s(attempt))
        return delay_after((delays,) if isinstance(delays, int | float) else delays, attempt)

    def longest_retry_delay_s(self, attempt: int) -> float:
        """The maximum of `retry_delay_s`."""
        if self.retry_backoff_seconds is None:
            return min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(attempt - 1, 30))
        return self.retry_delay_s(attempt)

    def too_old(self, age_s: float) -> bool:
        """Whether a run whose event has this age is no longer retried."""
        return self.retry_max_age is not None and age_s > seconds(self.retry_max_age, "retry_max_age")


def backoff(value: Any, name: str) -> tuple[float, ...]:
    """The delays (a number or several) as a tuple. Raises `DefinitionError` naming the option `name`."""
    delays = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not delays or not all(isinstance(d, int | float) and 0 <= d < float("inf") for d in delays):
        raise DefinitionError(f"{name}={value!r} must be a list of seconds, each 0 or more")
    return tuple(float(d) for d in delays)


def delay_after(delays: Sequence[float], attempt: int) -> float:
    """The delay after attempt number `attempt`, counted from 1; the last delay repeats."""
    return delays[min(attempt, len(delays)) - 1]


@dataclass(frozen=True, slots=True)
class Throttle:
    """Up to `limit` starts per `per`, evenly spaced (GCRA), plus a `burst`; per key. The excess waits."""

    limit: int
    per: Duration
    burst: int = 0
    key: Key | None = None

    def __post_init__(self) -> None:
        seconds(self.per, "Throttle per")
        if not (at_least(1, self.limit) and at_least(0, self.burst)):
            raise DefinitionError(
                f"Throttle(limit={self.limit!r}, burst={self.burst!r}): limit must be 1 or more, burst 0 or more"
            )


@dataclass(frozen=True, slots=True)
class Debounce:
    """Each event restarts the period. The key's events are decided no later than `max_wait` after the first."""

    period: Duration
    max_wait: Duration
    key: Key | None = None
    mode: Literal["trailing", "leading", "all"] = "trailing"

    def __post_init__(self) -> None:
        if seconds(self.max_wait, "Debounce max_wait") <= seconds(self.period, "Debounce period"):
            raise DefinitionError(f"Debounce: max_wait={self.max_wait!r} must be longer than period={self.period!r}")
        if self.mode not in ("trailing", "leading", "all"):
            raise DefinitionError(f"Debounce mode={self.mode!r}; one of: trailing, leading, all")


@dataclass(frozen=True, slots=True)
class Batch:
    """The trigger method gets a list of up to `max_size` events, or those of `timeout`; per key."""

    max_size: int
    timeout: Duration
    key: Key | None = None

    def __post_init__(self) -> None:
        seconds(self.timeout, "Batch timeout")
        if not at_least(1, self.max_size):
            raise DefinitionError(f"Batch max_size={self.max_size!r} must be 1 or more")
