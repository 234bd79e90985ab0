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
    """Where a run stands. `waiting` (for its turn or its retry) and `running` are live; the others are its ends."""

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
"""A run that ended so lets another event with the same declared key start another."""


class OutcomeKind(StrEnum):
    """What became of an event for one trigger."""

    STARTED = "started"
    FILTERED = "filtered"
    DUPLICATE = "duplicate"
    DROPPED = "dropped"
    DEAD = "dead"
    WAITING = "waiting"


class Outcome(NamedTuple):
    """What became of an event for one trigger. `facts` are the numbers behind `reason`."""

    kind: OutcomeKind
    reason: str
    event_id: str
    trigger: str
    run_id: str | None
    revision: int
    at: float
    facts: Mapping[str, Any] | None = None


class RecordKind:
    """What a record of the journal says: plain texts, which stores and the garbage collector take as they are."""

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
"""The kind of step that a record begins; the kind that it ends, and how."""


class Publication(NamedTuple):
    """What is to be published, at least once. `id` is the same each time, for the receiver to know it by.

    It goes to `topic` of the broker that `trigger` (None: no trigger, the process itself) reads from. Those of one
    `run_id` go in order. `payload` is JSON.
    """

    id: str
    topic: str
    payload: bytes
    trigger: str | None
    run_id: str

    @property
    def order(self) -> str:
        """What publications that go in order have in common: their run, or for one without a run its own id."""
        return self.run_id or self.id


class Record(Struct, frozen=True):
    """One line of a run's history, append-only. `kind` is one of `RecordKind`.

    `attempt` is the run's, `trial` the action's own (1 at first). `at` is in seconds since the epoch. `then` are the
    actions whose first trial starts with it, at the same time: a record that stores keep in this one and give back as
    one of its own. `value` is what an action returned, `changes` what it set in the context besides, `codec` (not
    stored) the action's; `error` is a description and `traceback` its text; the `value` of a failure is True if it is
    permanent.
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
        """As it is read: the record, and one for each action that started with it."""
        if not self.then:
            yield self
            return
        yield replace(self, then=())
        for name in self.then:
            yield Record(self.run_id, self.attempt, RecordKind.ACTION_STARTED, name, 1, self.at)


class Loadable:
    """A value that still lies in an artifact."""

    __slots__ = ()

    def load(self) -> Any:
        """Reads it. Raises `ArtifactDamaged`."""
        raise NotImplementedError


def loaded(value: Any) -> Any:
    """The value itself, also where it or an item of it still lies in an artifact."""
    if isinstance(value, Loadable):
        return value.load()
    if isinstance(value, Mapping) and any(isinstance(item, Loadable) for item in value.values()):
        return {key: loaded(item) for key, item in value.items()}
    return value


def as_changes(action: str, value: Any) -> Mapping[str, Any]:
    """What an action's result sets in the context: a mapping its keys, any other value the action's name."""
    if isinstance(value, Mapping):
        return value
    return {} if value is None else {action: value}


class Run(Struct, eq=False):
    """One execution of a saga, while it lives in this process.

    `publishes` says that its records may have something to publish. `foreground` says that somebody's call started it
    and waits for it, and not a trigger. With `hold` it is held when it fails, whatever its saga's `on_failure` says.
    `loop` is the one on which it executes.

    The engine sets `begun` when it takes the run, before which there is nothing to stop, and `stopping` when the way
    forward has ended. `cancelling` says that somebody has asked for its end, `abandoned` that nothing more is to be
    done for it here.
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
    steps: dict[str, Step] = {}  # each has its own
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
        """Whether its loop was closed under it: then what waits is thrown away, and nothing can be done any more."""
        return self.loop is not None and self.loop.is_closed()

    @property
    def log(self) -> RunLog:
        """Its log, made when it is first asked for."""
        if self.ctx.log_lines is None:
            self.ctx.log_lines = RunLog()
        return self.ctx.log_lines

    def write(self, action: str, stream: str, text: str, level: str | None = None) -> None:
        """Put into its log what an action has printed."""
        self.log.write(action, stream, text, level)

    def __repr__(self) -> str:
        error = f", {describe(self.error)}" if self.error is not None else ""
        return f"Run({self.run_id}, {self.definition.name} r{self.definition.revision}, {self.status}{error})"


class History:
    """What the records of a run's present attempt say: the state in which it is resumed."""

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
        """Fold the records of this attempt, oldest first."""
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
