"""The user's code that a Lab is waiting for: what it awaits of that Lab must not wait for the Lab in turn."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context

from sagaz_lab.errors import RunError
from sagaz_lab.model.run import Run
from sagaz_lab.model.step import Step, current_step

CONNECTION = "connection"
"""What waits for a source that is being connected: the start."""


class Place:
    """Where the code is called: a trigger method, a listener, a source. Of actions `current_step` says as much.

    `owner` are the tasks of the Lab; `about` says what waits for this code besides: the trigger of a window, or a
    listener's run. It is `over` when the code has returned.
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
        _place.set(self.before)  # a reset would fail in a coroutine that its loop has thrown away
        self.before = None


_place: ContextVar[Place | None] = ContextVar("place", default=None)


def inside(owner: object, name: str, about: str = "") -> Place:
    """Within it the user's code is called. What goes on in a task of its own afterwards, nobody waits for."""
    return Place(owner, name, about)


def inside_too(name: str, about: str = "") -> Place:
    """The same for code that the Lab calls in whose context this is."""
    place = _place.get()
    return Place(None if place is None else place.owner, name, about)


def belongs(context: Context, owner: object) -> None:
    """See to it that `inside_too` finds the Lab in this context."""
    place = context.get(_place)
    if place is None or place.owner is not owner:
        context.run(_place.set, Place(owner, ""))


def outside() -> Context:
    """A copy of this context for what nobody waits for."""
    context = copy_context()
    context.run(_place.set, None)
    context.run(current_step.set, None)
    return context


def place_in(owner: object) -> Place | None:
    """Where this is called, if that Lab waits for it and it is no action."""
    place = _place.get()
    waited_for = place is not None and place.owner is owner and not place.over and place.step is current_step.get(None)
    return place if waited_for else None


def caller_in(owner: object, begun: Callable[[str], Run | None]) -> str | None:
    """Whose code calls this, if that Lab waits for it; `begun` gives its live runs."""
    if (place := place_in(owner)) is not None:
        return place.name
    step = current_step.get(None)
    if step is not None and begun(step.run.run_id) is step.run:
        return f"{step.run.definition.name}.{step.name} of run {step.run.run_id}"
    return None


def waits_for_itself(what: str, caller: str, cure: str) -> RunError:
    return RunError(f"{what} in {caller} would wait for itself, and so for ever; {cure}")
