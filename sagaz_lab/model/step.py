"""The action that runs in this task or thread."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from sagaz_lab.model.context import SagaContext
    from sagaz_lab.model.run import Run


class ActionProgress(NamedTuple):
    """How far an action says it is."""

    done: float
    total: float | None
    note: str


class Snapshot(Protocol):
    """The context as an action found it; `sets` are the keys that its present trial has set."""

    sets: set[str]

    def restore(self, ctx: SagaContext) -> None:
        """Take back what a trial has made of the context."""


class Step(Protocol):
    """What the engine knows of the action that runs in this task or thread.

    `cancelled` says that it should return, `told` that the engine has stopped it and waits for its end;
    `stopping_since` is set (monotonic seconds) while a thread that should return has not, and `waiting_since` while
    the step waits for a thread. `before` is there if the action may get another trial.
    """

    run: Run
    name: str
    cancelled: bool
    told: bool
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
        """Keep it, to be published if the action succeeds."""

    def stop(self) -> None:
        """Tell it to return."""


current_step: ContextVar[Step | None] = ContextVar("current_step")
