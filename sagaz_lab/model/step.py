"""The action running in this task or thread."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from sagaz_lab.model.context import SagaContext
    from sagaz_lab.model.run import Run


class ActionProgress(NamedTuple):
    """An action's reported progress."""

    done: float
    total: float | None
    note: str


class Snapshot(Protocol):
    """The context before an action; `sets` are the keys set by its current trial."""

    sets: set[str]

    def restore(self, ctx: SagaContext) -> None:
        """Undo a trial's changes of the context."""


class Step(Protocol):
    """The engine's state of the action running in this task or thread.

    `cancelled`: it should return. `stop_requested`: the engine has stopped it and waits for its end. `stopping_since`
    is set (monotonic seconds) while a stopped thread has not returned, `waiting_since` while the step waits for a
    thread. `before` is set if the action may get another trial.
    """

    run: Run
    name: str
    cancelled: bool
    stop_requested: bool
    progress: ActionProgress | None
    stopping_since: float | None

    @property
    def before(self) -> Snapshot | None: ...

    @property
    def idempotency_key(self) -> str: ...

    @property
    def waiting_since(self) -> float | None: ...

    def stream(self, name: str) -> AsyncIterator[Any]: ...

    def publish(self, topic: str, payload: bytes) -> None:
        """Published if the action succeeds."""

    def stop(self) -> None:
        """Ask the action to return."""


current_step: ContextVar[Step | None] = ContextVar("current_step")
