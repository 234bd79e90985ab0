"""A trigger made ready for its decision loop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

from sagaz_lab.errors import MissingKey, NotBuilt
from sagaz_lab.model.listener import OutboxSagaListener
from sagaz_lab.model.policy import TriggerConfig, seconds
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.model.trigger import Trigger
from sagaz_lab.runtime.admission import Admission
from sagaz_lab.runtime.decode import decoder, key_reader, validator
from sagaz_lab.runtime.outcomes import Counters

UNBUILT = ("throttle", "cooldown", "debounce", "batch", "singleton", "until", "priority", "within")

ID_LENGTH = 512
"""An event's id longer than this is claimed by its hash."""


class CompiledTrigger:
    """One trigger of one revision: everything that the loop would otherwise look up for each event."""

    __slots__ = (
        "claim_key",
        "claim_ttl_s",
        "concurrency_key",
        "config",
        "decode",
        "definition",
        "instance",
        "is_async",
        "method",
        "overlap",
        "trigger",
        "validate",
        "wants_event",
    )

    def __init__(self, definition: SagaDefinition, trigger: Trigger, instance: Saga, default: TriggerConfig) -> None:
        gates = trigger.gates
        self.definition = definition
        self.trigger = trigger
        self.instance = instance
        self.method: Callable[..., Any] = getattr(instance, trigger.method_name)
        self.decode = decoder(trigger.decode)
        self.validate = validator(trigger)
        self.wants_event = trigger.wants_event
        self.is_async = trigger.is_async
        self.overlap = trigger.spec.settings.get("overlap") if trigger.spec.kind == "cron" else None
        self.config = trigger.config or definition.config or default
        self.claim_ttl_s = (
            seconds(gates.idempotency_ttl, "idempotency_ttl")
            if gates.idempotency_ttl is not None
            else self.config.event_retention_days * 86400.0
        )
        self.claim_key = self._reader("idempotency_key", gates.idempotency_key)
        self.concurrency_key = self._reader("concurrency_key", gates.concurrency_key)

    def refuse_unbuilt(self) -> None:
        """Raises `NotBuilt` for an option that can be defined but that this version cannot run."""
        trigger = self.trigger
        used = [name for name in UNBUILT if getattr(trigger.gates, name) not in (None, 0)]
        if trigger.composite is not None:
            used.append(f"source={trigger.composite.how}(...)")
        if trigger.params:
            used.append("params")
        if self.config.dead_letter_topic is not None:
            used.append("dead_letter_topic")
        if has_outbox(self.definition):
            used.append("OutboxSagaListener")
        if used:
            raise NotBuilt(
                f"{trigger.name} uses {', '.join(used)}, which can be defined but which this version cannot run yet"
            )

    def _reader(self, option: str, key: Any) -> Callable[[Any], str] | None:
        return None if key is None else key_reader(self.trigger.name, option, key)


class TriggerState:
    """What a trigger carries from one revision to the next: counters, queue, whether it is paused."""

    def __init__(self, compiled: CompiledTrigger, counters: Counters) -> None:
        self.name = compiled.trigger.name
        self.compiled = compiled
        self.counters = counters
        self.admission = Admission(
            compiled.trigger.gates, compiled.config.queue_size, in_turn=compiled.overlap == "queue"
        )
        self.paused = False
        self.removed = False
        self.told_hidden_fields = False
        self._waiters: list[asyncio.Future[None]] = []

    def use(self, compiled: CompiledTrigger) -> None:
        self.compiled = compiled
        self.removed = False
        self.admission.configure(
            compiled.trigger.gates, compiled.config.queue_size, in_turn=compiled.overlap == "queue"
        )
        self.wake()

    def room(self) -> int:
        """Events that may be taken in now. Only `block` makes the source wait; the others decide event by event."""
        if self.paused:
            return 0
        if self.compiled.config.backpressure_strategy == "block":
            return max(0, self.admission.free() - self.counters.deciding)
        return max(1, self.admission.size)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.wake()

    async def changed(self) -> None:
        """Returns when `room` may have changed."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def wake(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


def has_outbox(definition: SagaDefinition) -> bool:
    return any(isinstance(listener, OutboxSagaListener) for listener in definition.listeners)


def claim_of(event_id: str) -> str:
    """The claim of an event without a key of its own. Raises `MissingKey`."""
    if not (event_id and isinstance(event_id, str)):
        raise MissingKey(f"the source gave the event no id but {event_id!r}; name a field of it with idempotency_key=")
    if len(event_id) <= ID_LENGTH:
        return event_id
    return "sha256:" + hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()
