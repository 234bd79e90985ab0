"""Tracks the user code that a Lab waits for, so that it cannot wait for the same Lab in turn."""

from __future__ import annotations

from asyncio import Task
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any, Protocol, runtime_checkable

from sagaz_lab.errors import RunError
from sagaz_lab.model.run import Run
from sagaz_lab.model.step import Step, current_step

CONNECTION = "connection"
"""The `about` of a source that is being connected: the start waits for it."""


@runtime_checkable
class LabTasks(Protocol):
    """The tasks of a Lab."""

    def may_go_on(self, task: Task[Any]) -> bool:
        """Whether it is one of these, and the Lab does not end it."""


class Place:
    """A call into user code: a trigger method, a listener, a source. For actions see `current_step`.

    `owner` identifies the Lab by its tasks. `about` names what else waits for this code: the trigger of a window or a
    listener's run. `over` is set when the code has returned.
    """

    __slots__ = ("about", "before", "name", "over", "owner", "step")

    def __init__(self, owner: object, name: str, about: str = "") -> None:
        self.owner = owner
        self.name = name
        self.about = about
        self.over = True
        self.before: Place | None = None
        self.step: Step | None = None

    def __enter__(self) -> None:
        self.over, self.before, self.step = False, _place.get(), current_step.get(None)
        _place.set(self)

    def __exit__(self, *_: object) -> None:
        self.over = True
        _place.set(self.before)  # a reset would fail in a coroutine that its loop has discarded
        self.before = None


_place: ContextVar[Place | None] = ContextVar("place", default=None)


def inside(owner: object, name: str, about: str = "") -> Place:
    """Enter it around a call into user code. Tasks that outlive the call do not count as inside."""
    return Place(owner, name, about)


def inside_too(name: str, about: str = "") -> Place:
    """The same, with the owner taken from the current context."""
    place = _place.get()
    return Place(None if place is None else place.owner, name, about)


def belongs(context: Context, owner: object) -> None:
    """Let `inside_too` find the Lab in this context."""
    place = context.get(_place)
    if place is None or place.owner is not owner:
        context.run(_place.set, Place(owner, ""))


def outside() -> Context:
    """A copy of this context for code that nothing waits for."""
    context = copy_context()
    context.run(_place.set, None)
    context.run(current_step.set, None)
    return context


def may_go_on(task: Task[Any]) -> bool:
    """Whether the Lab of this context has the task, and does not end it."""
    place = _place.get()
    return place is not None and isinstance(place.owner, LabTasks) and place.owner.may_go_on(task)


def place_in(owner: object) -> Place | None:
    """The current place if that Lab waits for it; None inside an action."""
    place = _place.get()
    waited_for = place is not None and place.owner is owner and not place.over and place.step is current_step.get(None)
    return place if waited_for else None


def caller_in(owner: object, begun: Callable[[str], Run | None]) -> str | None:
    """Names the calling user code if that Lab waits for it; `begun` looks up live runs."""
    if (place := place_in(owner)) is not None:
        return place.name
    step = current_step.get(None)
    if step is not None and begun(step.run.run_id) is step.run:
        return f"{step.run.definition.name}.{step.name} of run {step.run.run_id}"
    return None


def waits_for_itself(what: str, caller: str, cure: str) -> RunError:
    return RunError(f"{what} in {caller} would wait for itself forever; {cure}")
