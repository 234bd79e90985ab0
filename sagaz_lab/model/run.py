"""Runs: one execution of a saga, and the records of its history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from sagaz_lab.errors import describe
from sagaz_lab.model.event import Event
from sagaz_lab.model.log import RunLog
from sagaz_lab.model.step import Step

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from sagaz_lab.model.context import SagaContext
    from sagaz_lab.model.saga import Saga, SagaDefinition


class RunStatus(StrEnum):
    """A run's status. `waiting` (for its turn or its retry) and `running` are live; the others are final."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    HELD = "held"
    PARTIALLY_COMMITTED = "partially_committed"
    COMPENSATION_FAILED = "compensation_failed"
    NEEDS_CODE = "needs_code"
    CANCELLED = "cancelled"


LIVE = frozenset({RunStatus.WAITING, RunStatus.RUNNING})
RESTARTABLE = frozenset({RunStatus.COMPENSATED, RunStatus.CANCELLED})
"""After a run with one of these, another event with the same declared key can start a run."""


class OutcomeKind(StrEnum):
    """The kinds of results of an event for one trigger."""

    STARTED = "started"
    FILTERED = "filtered"
    DUPLICATE = "duplicate"
    DROPPED = "dropped"
    DEAD = "dead"
    WAITING = "waiting"


class Outcome(NamedTuple):
    """The result of an event for one trigger. `facts` are the numbers behind `reason`."""

    kind: OutcomeKind
    reason: str
    event_id: str
    trigger: str
    run_id: str | None
    revision: int
    at: float
    facts: Mapping[str, Any] | None = None


class RecordKind:
    """Kinds of journal records: plain strings, which are free to store and to collect."""

    ACTION_STARTED: Final = "action_started"
    ACTION_FINISHED: Final = "action_finished"
    ACTION_FAILED: Final = "action_failed"
    ACTION_CUT_OFF: Final = "action_cut_off"
    COMPENSATION_STARTED: Final = "compensation_started"
    COMPENSATION_FINISHED: Final = "compensation_finished"
    COMPENSATION_FAILED: Final = "compensation_failed"


STEP_STARTS = {RecordKind.ACTION_STARTED: "action", RecordKind.COMPENSATION_STARTED: "compensation"}
STEP_ENDS = {
    RecordKind.ACTION_FINISHED: ("action", "completed"),
    RecordKind.ACTION_FAILED: ("action", "failed"),
    RecordKind.ACTION_CUT_OFF: ("action", "cut_off"),
    RecordKind.COMPENSATION_FINISHED: ("compensation", "completed"),
    RecordKind.COMPENSATION_FAILED: ("compensation", "failed"),
}
"""The kind of step that a record begins, and the kind and status that it ends."""


class Publication(NamedTuple):
    """A message to publish at least once, each time with the same `id`, by which receivers deduplicate.

    It goes to `topic` of the broker that `trigger` reads from (None: the process itself). Publications of one
    `run_id` go in order. `payload` is JSON.
    """

    id: str
    topic: str
    payload: bytes
    trigger: str | None
    run_id: str

    @property
    def order(self) -> str:
        """The ordering key: the run id, or the publication's own id without a run."""
        return self.run_id or self.id


class Record(Struct, frozen=True):
    """One line of a run's history, append-only. `kind` is one of `RecordKind`.

    `attempt` is the run's, `trial` the action's, both counted from 1. `at` is in seconds since the epoch. `then` lists
    the actions whose first trial starts at the same time: stores keep them in this record and return each as its own
    record. `value` is the action's result, `changes` its other changes of the context, `codec` (not stored) its codec.
    A failure has `error`, a description, and `traceback`; its `value` is True if it is permanent.
    """

    run_id: str
    attempt: int
    kind: str
    action: str
    trial: int
    at: float
    then: Sequence[str] = ()
    publications: Sequence[Publication] = ()
    value: Any = None
    changes: Mapping[str, Any] | None = None
    codec: Any = None
    error: str | None = None
    traceback: str | None = None

    def in_full(self) -> Iterator[Record]:
        """The record, followed by one for each action in `then`."""
        if not self.then:
            yield self
            return
        yield replace(self, then=())
        for name in self.then:
            yield Record(self.run_id, self.attempt, RecordKind.ACTION_STARTED, name, 1, self.at)


class Loadable:
    """A value in an artifact, not loaded yet."""

    __slots__ = ()

    def load(self) -> Any:
        """Raises `ArtifactDamaged`."""
        raise NotImplementedError


def loaded(value: Any) -> Any:
    """The value, with itself or its items loaded from artifacts."""
    if isinstance(value, Loadable):
        return value.load()
    if isinstance(value, Mapping) and any(isinstance(item, Loadable) for item in value.values()):
        return {key: loaded(item) for key, item in value.items()}
    return value


def as_changes(action: str, value: Any) -> Mapping[str, Any]:
    """The context keys that an action's result sets: a mapping its own, any other value the action's name."""
    if isinstance(value, Mapping):
        return value
    return {} if value is None else {action: value}


class Run(Struct, eq=False):
    """One execution of a saga that is live in this process, on `loop`.

    `publishes`: its records may carry publications. `foreground`: a caller, not a trigger, started it and waits for
    it. `hold` holds it on failure, regardless of the saga's `on_failure`.

    The engine sets `begun` when it takes the run (before that there is nothing to stop) and `stopping` when no
    further action starts. `cancelling`: its end was requested. `abandoned`: this process does nothing more for it.
    """

    run_id: str
    definition: SagaDefinition
    instance: Saga
    ctx: SagaContext
    trigger: str | None
    attempt: int
    started_at: float
    history: History | None = None
    compensate_only: bool = False
    hold: bool = False
    foreground: bool = False
    publishes: bool = False
    status: RunStatus = RunStatus.RUNNING
    error: BaseException | None = None
    steps: dict[str, Step] = {}  # a Struct copies it per instance
    loop: AbstractEventLoop | None = None
    begun: bool = False
    stopping: bool = False
    cancelling: bool = False
    abandoned: bool = False

    @property
    def event(self) -> Event | None:
        """As it was sent."""
        return self.ctx.sent

    @property
    def gone(self) -> bool:
        """Whether its loop was closed: its tasks are then discarded and nothing more can run."""
        return self.loop is not None and self.loop.is_closed()

    @property
    def log(self) -> RunLog:
        """Created on first use."""
        if self.ctx.log_lines is None:
            self.ctx.log_lines = RunLog()
        return self.ctx.log_lines

    def write(self, action: str, stream: str, text: str, level: str | None = None) -> None:
        """Add an action's output to the log."""
        self.log.write(action, stream, text, level)

    def __repr__(self) -> str:
        error = f", {describe(self.error)}" if self.error is not None else ""
        return f"Run({self.run_id}, {self.definition.name} r{self.definition.revision}, {self.status}{error})"


class History:
    """The state from which a run is resumed, folded from the records of its current attempt."""

    __slots__ = ("changes", "compensated", "compensating", "cut_off", "failed", "finished", "permanent", "started")

    def __init__(self) -> None:
        self.started: dict[str, int] = {}
        self.finished: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        self.cut_off: set[str] = set()
        self.compensated: set[str] = set()
        self.compensating = False
        self.permanent = False
        self.changes: dict[str, Any] = {}

    @classmethod
    def of(cls, records: Iterable[Record], attempt: int) -> History:
        """`records`: oldest first."""
        history = cls()
        for record in records:
            if record.attempt == attempt:
                history.add(record)
        return history

    def add(self, record: Record) -> None:
        name = record.action
        match record.kind:
            case RecordKind.ACTION_STARTED:
                self.started[name] = record.trial
                self.failed.pop(name, None)
                self.cut_off.discard(name)
            case RecordKind.ACTION_FINISHED:
                self.finished[name] = record.value
                self._merge(name, record)
            case RecordKind.ACTION_FAILED:
                self.failed[name] = record.error or ""
                self.permanent = self.permanent or bool(record.value)
            case RecordKind.ACTION_CUT_OFF:
                self.failed[name] = record.error or ""
                self.cut_off.add(name)
            case RecordKind.COMPENSATION_STARTED:
                self.compensating = True
            case RecordKind.COMPENSATION_FINISHED:
                self.compensated.add(name)
            case RecordKind.COMPENSATION_FAILED:
                pass

    def _merge(self, name: str, record: Record) -> None:
        self.changes.update(record.changes or {})
        self.changes.update(as_changes(name, record.value))
