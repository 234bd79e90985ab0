"""Asks a saga's trigger what it would make of an event, with no store, no source and no run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sagaz_lab.errors import DefinitionError, UnknownName
from sagaz_lab.model.event import Event
from sagaz_lab.model.saga import Saga
from sagaz_lab.model.trigger import Skip, Trigger
from sagaz_lab.runtime.decode import decoder, key_reader, validator


class TriggerTestHarness:
    """`context = await TriggerTestHarness(MySaga()).trigger("on_event", payload)`.

    `skipped` is the `skip(...)` that the last call met, if it met one.
    """

    def __init__(self, saga: Saga | type[Saga]) -> None:
        self._saga = saga() if isinstance(saga, type) else saga
        definition = type(self._saga).__definition__
        if definition is None:
            raise DefinitionError(f"{type(self._saga).__qualname__} is abstract: its triggers belong to its subclasses")
        self._definition = definition
        self.skipped: Skip | None = None

    async def trigger(self, method: str, event: Any) -> dict[str, Any] | None:
        """The context of the run that the event would start, or None if it is filtered.

        `event` is an `Event`, a payload (bytes are decoded) or an object of the annotated type. Raises what would make
        a dead letter of it: `DecodeError`, `PayloadMismatch`, `MissingKey` or the method's own error.
        """
        if method not in self._definition.triggers:
            raise UnknownName(self._definition.name, "trigger", method, self._definition.triggers)
        trigger = self._definition.triggers[method]
        given = event if isinstance(event, Event) else Event(event, "test", trigger.spec.kind)
        if isinstance(given.payload, bytes):
            given = given.with_payload(decoder(trigger.decode)(given.payload))
        validate = validator(trigger)
        subject = given if validate is None else validate(given.payload)
        _read_keys(trigger, subject)
        call = getattr(self._saga, method)
        result = call(subject, given) if trigger.wants_event else call(subject)
        if trigger.is_async:
            result = await result
        self.skipped = result if isinstance(result, Skip) else None
        if result is None or self.skipped is not None:
            return None
        if not isinstance(result, Mapping):
            raise TypeError(f"{trigger.name} returned a {type(result).__name__}, not a mapping, None or skip(...)")
        return dict(result)


def _read_keys(trigger: Trigger, subject: Any) -> None:
    for option in ("idempotency_key", "concurrency_key"):
        key = getattr(trigger.gates, option)
        if key is not None:
            key_reader(trigger.name, option, key)(subject)
