"""Tests a single saga: the result of a trigger for an event, and the run that it starts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sagaz_lab.errors import DefinitionError, UnknownName
from sagaz_lab.lab import Lab
from sagaz_lab.model.apart import apart
from sagaz_lab.model.context import SagaContext
from sagaz_lab.model.event import Event
from sagaz_lab.model.given import event_with
from sagaz_lab.model.params import Params, Scalar, checked_change, has_params, reading
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.model.trigger import Skip, Trigger, takes_list
from sagaz_lab.runtime.decisions.returned import as_context
from sagaz_lab.runtime.triggers.decode import decoder, key_reader, validator


class TriggerTestHarness:
    """`context = await TriggerTestHarness(MySaga()).trigger("on_event", payload)`.

    `skipped` is the `skip(...)` of the last call, if any. `params` override the triggers' params of these names. Raises
    `UnknownName` or `DefinitionError` if they do not fit.
    """

    def __init__(self, saga: Saga | type[Saga], *, params: Mapping[str, Any] | None = None) -> None:
        self._saga = saga() if isinstance(saga, type) else saga
        definition = type(self._saga).__definition__
        if definition is None:
            raise DefinitionError(f"{type(self._saga).__qualname__} is abstract: its triggers belong to its subclasses")
        self._definition = definition
        self._params = _params(definition, params or {})
        self.skipped: Skip | None = None

    async def trigger(self, method: str, event: Any) -> dict[str, Any] | None:
        """The context of the run that the event would start, or None if it is filtered.

        `event` is an `Event`, a payload (bytes are decoded) or an object of the annotated type; for a method that gets
        a list, a list of payloads. Raises the error that would make it a dead letter: `DecodeError`,
        `PayloadMismatch`, `MissingKey` or the method's own.
        """
        trigger = self._trigger(method)
        given = _event(trigger, event)
        if takes_list(trigger.gates, trigger.composite):
            if not isinstance(given.payload, list):
                raise TypeError(f"{trigger.name} gets a list of events; pass a list of payloads")
            subject: Any = [_subject(trigger, given.with_payload(payload)) for payload in given.payload]
        else:
            subject = _subject(trigger, given)
            _read_keys(trigger, subject)
        saga = self._saga
        if has_params(self._definition):
            saga = reading(saga, Params(trigger.name, {**trigger.params, **self._params[method]}))
        call = getattr(saga, method)
        result = call(subject, given) if trigger.wants_event else call(subject)
        if trigger.is_async:
            result = await result
        self.skipped = result if isinstance(result, Skip) else None
        if result is None or self.skipped is not None:
            return None
        return as_context(result, trigger.name)

    async def run(self, method: str, event: Any) -> SagaContext | None:
        """The context at the end of the run that the event starts, or None if it is filtered.

        The run has one attempt, in a temporary Lab. Raises the errors of `trigger`; if an action fails, compensates and
        then raises its error.
        """
        context = await self.trigger(method, event)
        if context is None:
            return None
        async with Lab("memory", offline=True) as lab:
            return await lab.run_saga(self._saga, context, event=_event(self._trigger(method), event))

    def _trigger(self, method: str) -> Trigger:
        if method not in self._definition.triggers:
            raise UnknownName(self._definition.name, "trigger", method, self._definition.triggers)
        return self._definition.triggers[method]


def _params(definition: SagaDefinition, given: Mapping[str, Any]) -> dict[str, dict[str, Scalar]]:
    """The given values by method, as far as its trigger has these params."""
    known = {name for trigger in definition.triggers.values() for name in trigger.params}
    if unknown := [name for name in given if name not in known]:
        raise UnknownName(definition.name, "param", unknown[0], known)
    return {
        method: checked_change(
            trigger.name, trigger.params, trigger.ranges, {n: v for n, v in given.items() if n in trigger.params}
        )
        for method, trigger in definition.triggers.items()
    }


def _event(trigger: Trigger, event: Any) -> Event:
    given = event if isinstance(event, Event) else event_with(event, "test", str(trigger.spec), datetime.now(UTC))
    if isinstance(given.payload, bytes):
        given = given.with_payload(decoder(trigger.decode)(given.payload))
    return given.with_payload(apart(given.payload))


def _subject(trigger: Trigger, event: Event) -> Any:
    validate = validator(trigger)
    return event if validate is None else validate(event.payload)


def _read_keys(trigger: Trigger, subject: Any) -> None:
    for option in ("idempotency_key", "concurrency_key"):
        key = getattr(trigger.gates, option)
        if key is not None:
            key_reader(trigger.name, option, key)(subject)
