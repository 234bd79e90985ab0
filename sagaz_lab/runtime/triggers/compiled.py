"""A trigger of one revision, prepared for the decision loop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from sagaz_lab.abc import KEY_MARK, WaitingEvent
from sagaz_lab.errors import DefinitionError, MissingKey
from sagaz_lab.model.event import Event, payload_as_sent, reader_of
from sagaz_lab.model.params import Params, has_params, reading
from sagaz_lab.model.policy import Key, TriggerConfig, seconds
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.model.trigger import Gates, Trigger, specs_of
from sagaz_lab.runtime.gates.core import Rules
from sagaz_lab.runtime.gates.window_policies import policy_of
from sagaz_lab.runtime.triggers.decode import decoder, key_reader, validator

ID_LENGTH = 512
"""Longer event ids are claimed by hash."""

SPENT_S = 86400.0
"""How long the id of a superseded event stays claimed, unless its retention is shorter."""

RETRYING = 10_000
"""Runs of a trigger that may wait for a retry; beyond this it takes no events, whatever the strategy."""

ONLY_KEY = "*"
"""The concurrency key of all runs of a trigger with `singleton` and no `concurrency_key`."""

Read = Callable[[Any], str]


class CompiledTrigger:
    """A trigger of one revision, with everything that the loop would otherwise look up per event.

    With `together` the method gets a list instead of single payloads.
    """

    __slots__ = ("claim_ends", "claim_key", "claim_ttl_s", "concurrency_key", "config", "cooldown_s", "decode",
                 "definition", "id_ttl_s", "instance", "is_async", "keyed", "leading_key", "method", "overlap",
                 "pace_key", "part_names", "policy", "singleton", "together", "trigger", "validate", "wants_event",
                 "window_key")  # fmt: skip

    def __init__(self, definition: SagaDefinition, trigger: Trigger, instance: Saga, default: TriggerConfig) -> None:
        gates = trigger.gates
        self.definition = definition
        self.trigger = trigger
        self.part_names = [str(spec) for spec in specs_of(trigger)]
        self.instance = instance
        self.method: Callable[..., Any] = getattr(instance, trigger.method_name)
        self.decode = decoder(trigger.decode)
        self.policy = policy_of(trigger)
        self.together = self.policy is not None and self.policy.together
        self.validate = validator(trigger)
        self.wants_event = trigger.wants_event
        self.is_async = trigger.is_async
        self.overlap = trigger.spec.settings.get("overlap") if trigger.spec.traits.scheduled else None
        self.config = trigger.config or definition.config or default
        self.id_ttl_s = self.config.event_retention_days * 86400.0
        self.claim_ttl_s = (
            seconds(gates.idempotency_ttl, "idempotency_ttl") if gates.idempotency_ttl is not None else self.id_ttl_s
        )
        self.claim_ends = gates.until == "terminal"
        self.cooldown_s = None if gates.cooldown is None else seconds(gates.cooldown, "cooldown")
        self.singleton = gates.singleton
        self._read_keys()
        self.keyed = self.concurrency_key is not None or self.pace_key is not None
        self._refuse_small_queue()

    def rules(self, gates: Gates) -> Rules:
        """The gates' rules under these limits."""
        config = self.config
        return Rules(self.trigger.name, gates, self.policy, self.cooldown_s, self.overlap, config.queue_size,
                     config.backpressure_strategy)  # fmt: skip

    def _read_keys(self) -> None:
        gates, composite = self.trigger.gates, self.trigger.composite
        self.claim_key = self._reader("idempotency_key", gates.idempotency_key)
        correlates = self.policy is not None and composite is not None
        self.concurrency_key = self._of_run("concurrency_key", gates.concurrency_key)
        if self.concurrency_key is None and gates.singleton is not None:
            self.concurrency_key = lambda _: ONLY_KEY
        self.pace_key = self._of_run("throttle key", gates.throttle.key if gates.throttle else None)
        window = gates.debounce or gates.batch
        key = gates.concurrency_key if correlates else window.key if window is not None else None
        read = self._reader("concurrency_key" if correlates else "key", key)
        leads = gates.debounce is not None and gates.debounce.mode == "leading"
        self.leading_key: Read | None = read if leads else None
        self.window_key: Read | None = None if leads else read

    def _reader(self, option: str, key: Key | None) -> Read | None:
        return None if key is None else key_reader(self.trigger.name, option, key)

    def _of_run(self, option: str, key: Key | None) -> Read | None:
        """The reader of a run's key. For a list, a field name or the parts' common key refers to the last item."""
        read = self._reader(option, key)
        if read is None or not self.together or (callable(key) and self.trigger.composite is None):
            return read
        return lambda subjects: read(subjects[-1])

    def keys_of_run(self, subject: Any) -> tuple[str | None, str | None]:
        """The concurrency key and the rate key of a run. Raises what the user's code raises."""
        key = None if self.concurrency_key is None else self.concurrency_key(subject)
        return key, None if self.pace_key is None else self.pace_key(subject)

    def id_claim(self, event: Event, part: int) -> str | None:
        """The claim of an event's id, separate for each part of a composite.

        Raises `MissingKey` if the source gave no id and nothing else identifies a redelivery.
        """
        if self.claim_key is not None and not event.id:
            return None
        claim = claim_of(event.id)
        return claim if self.trigger.composite is None else f"{part}:{claim}"

    def declared(self, subject: Any, part: int) -> str | None:
        """The claim of the declared key, if any. Raises `MissingKey` and `UnfitKey`."""
        if self.claim_key is None:
            return None
        key = self.claim_key(subject)
        return KEY_MARK + key if self.trigger.composite is None else f"{KEY_MARK}{part}:{key}"

    def spent_until(self, now: float) -> float:
        """Until when the id of a superseded event stays claimed."""
        return now + min(SPENT_S, self.id_ttl_s)

    def part_of(self, event: Event) -> int:
        """The composite's part that delivered the event, by the name of its source."""
        names = self.part_names
        return names.index(event.source) if event.source in names else 0

    def of_part(self, event: Event, part: int) -> Event:
        """The event with the source name of this part, whatever name it carried."""
        source = self.part_names[part]
        if event.source == source or self.part_of(event) == part:
            return event
        return Event(payload_as_sent(event), event.id, source, event.key, event.headers, event.timestamp, event.attempt)

    def subject_of(self, event: Event) -> Any:
        """A private copy of the method's argument for an event that has waited, or for the list of a window.

        A single event that waited under an earlier revision becomes a list of one. Raises `PayloadMismatch`.
        """
        if not self.together:
            return self.subject_of_one(event)
        payload = payload_as_sent(event)
        items = payload if isinstance(payload, list) else [payload]
        return [self.subject_of_one(event.with_payload(item)) for item in items]

    def subject_of_one(self, event: Event) -> Any:
        event = reader_of(event)
        return event if self.validate is None else self.validate(event.payload)

    def in_window(self, waiting: WaitingEvent) -> WaitingEvent:
        """The event with this revision's group key; it keeps its old key if the new one cannot be read."""
        try:
            key = None if self.window_key is None else self.window_key(self.subject_of_one(waiting.event))
        except Exception:  # noqa: BLE001  the decision reports any fault of the event
            return waiting
        return waiting if key == waiting.key else waiting._replace(key=key)

    def _refuse_small_queue(self) -> None:
        batch, size = self.trigger.gates.batch, self.config.queue_size
        if batch is not None and batch.max_size > size:
            raise DefinitionError(
                f"{self.trigger.name}: Batch(max_size={batch.max_size}) never fills, because queue_size={size} "
                "events may wait; set TriggerConfig(queue_size=) to as many at least"
            )

    def show(self, params: Params) -> None:
        """The method reads these from its next event on; a call under way keeps its own."""
        if has_params(self.definition):
            self.instance = reading(self.instance, params)
            self.method = getattr(self.instance, self.trigger.method_name)


def claim_of(event_id: str) -> str:
    """The claim of an event's id. Raises `MissingKey`."""
    if not (event_id and isinstance(event_id, str)):
        raise MissingKey(f"the source gave the event no id but {event_id!r}; name a field of it with idempotency_key=")
    if len(event_id) <= ID_LENGTH and not event_id.startswith(KEY_MARK):
        return event_id
    return "sha256:" + hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()
