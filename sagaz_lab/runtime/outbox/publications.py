"""Publications besides the actions' own: the steps of a run, and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from sagaz_lab.abc import DeadLetter, DecisionStore, Ending, Publication
from sagaz_lab.errors import DefinitionError, UnstorableValue, describe
from sagaz_lab.model.event import payload_as_sent
from sagaz_lab.model.listener import OutboxSagaListener
from sagaz_lab.model.publishing import to_json
from sagaz_lab.model.run import STEP_ENDS, Record, RecordKind, Run
from sagaz_lab.model.saga import SagaDefinition

_FAILURES = frozenset({RecordKind.ACTION_FAILED, RecordKind.ACTION_CUT_OFF, RecordKind.COMPENSATION_FAILED})


def outbox_listener(definition: SagaDefinition) -> OutboxSagaListener | None:
    """The saga's outbox listener; of several, the one that publishes the most."""
    found = [listener for listener in definition.listeners if isinstance(listener, OutboxSagaListener)]
    return max(found, key=lambda listener: listener.publish_step_events, default=None)


def refuse_other_store(definition: SagaDefinition, store: DecisionStore) -> None:
    """Raises `DefinitionError` for a listener with a store other than the Lab's."""
    for listener in definition.listeners:
        if isinstance(listener, OutboxSagaListener) and listener.storage is not None:
            given = listener.storage
            if given is not store and given != store.url:
                raise DefinitionError(
                    f"{definition.name}: OutboxSagaListener(storage={given!r}) is not the Lab's store, and only that "
                    "one stores a step and its event together; remove storage="
                )


class StepEvents:
    """Adds the events of the saga's `OutboxSagaListener` to the records of an attempt.

    An event is stored with its record, so the record's time suffices to distinguish it from a later repetition's.
    """

    __slots__ = ("_run", "_steps", "_topic")

    def __init__(self, run: Run, listener: OutboxSagaListener) -> None:
        self._run = run
        self._steps = listener.publish_step_events
        self._topic = f"{run.definition.name}.events"

    def of(self, records: Sequence[Record], *, ends: bool = False) -> Sequence[Record]:
        """The records with their events. `ends`: they come with the end of the attempt.

        A failure that comes with neither the end nor the start of a compensation belongs to a trial that will be
        retried; it has no event.
        """
        if not self._steps:
            return records
        final = ends or any(record.kind == RecordKind.COMPENSATION_STARTED for record in records)
        return [
            replace(record, publications=(*record.publications, self._event(record)))
            if record.kind in STEP_ENDS and (final or record.kind not in _FAILURES)
            else record
            for record in records
        ]

    def end(self, ending: Ending, at: float, retry_at: float | None) -> Ending:
        """The ending with the events of its records and its own."""
        error = None if ending.error is None else describe(ending.error)
        facts = {"error": _whole(error), "retry_at": None if retry_at is None else _moment(retry_at)}
        event = self._publication(f"run_{ending.status}", None, at, facts)
        records = self.of(ending.records, ends=True)
        return replace(ending, records=records, publications=(*ending.publications, event))

    def _event(self, record: Record) -> Publication:
        return self._publication(record.kind, record.action, record.at, {"error": _whole(record.error)})

    def _publication(self, kind: str, action: str | None, at: float, facts: dict[str, Any]) -> Publication:
        run = self._run
        body = {
            "type": kind,
            "saga": run.definition.name,
            "run_id": run.run_id,
            "revision": run.definition.revision,
            "action": action,
            "attempt": run.attempt,
            "at": _moment(at),
            "event_id": None if run.event is None else _whole(run.event.id),
            **facts,
        }
        where = f"{action}/" if action is not None else ""
        id = f"{run.run_id}/{run.attempt}/{where}{kind}/{round(at * 1000)}"
        return Publication(id, self._topic, to_json(body, run.run_id, self._topic), run.trigger, run.run_id)


def publication_of(letter: DeadLetter, topic: str) -> Publication:
    """The dead letter as a publication. A payload that is not JSON becomes its text."""
    event = letter.event
    facts = {
        "id": letter.id,
        "event_id": event.id,
        "source": event.source,
        "payload": payload_as_sent(event),
        "trigger": letter.trigger,
        "saga": letter.saga,
        "run_id": letter.run_id,
        "revision": letter.revision,
        "cause": letter.cause,
        "error": letter.error,
        "traceback": letter.traceback,
        "attempts": letter.attempts,
        "at": _moment(letter.at),
    }
    try:
        body = to_json(facts, letter.id, topic)
    except UnstorableValue:
        body = to_json({name: _json_or_text(value) for name, value in facts.items()}, letter.id, topic)
    return Publication(letter.id, topic, body, letter.trigger, letter.run_id or "")


def _json_or_text(value: Any) -> Any:
    try:
        to_json(value, "", "")
    except UnstorableValue:
        if isinstance(value, bytes | bytearray):
            return value.decode(errors="backslashreplace")
        return _whole(value if isinstance(value, str) else repr(value))
    return value


def _whole(text: str | None) -> str | None:
    """An error's text or an outside id may contain a lone surrogate, which JSON cannot represent."""
    return None if text is None else text.encode(errors="backslashreplace").decode()


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
