"""Dead letters: their content, and the cause by which they are grouped."""

from __future__ import annotations

import inspect
import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from types import CodeType
from typing import Any, NamedTuple

from sagaz_lab.abc import DeadLetter
from sagaz_lab.errors import PACKAGE_FOLDER, DefinitionError, StoreError, Unreadable, describe
from sagaz_lab.model.awaiting import awaited
from sagaz_lab.model.event import Event, payload_as_sent
from sagaz_lab.model.given import headers_of
from sagaz_lab.model.run import Loadable, Run
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.runtime.triggers.state import TriggerState
from sagaz_lab.texts import encodable, masked, shortened

REDRIVEN = "sagaz-redriven"
"""The header of a redriven event that counts its redrives."""

TRACEBACK_CHARACTERS = 20_000
"""Characters of a traceback that are kept: the last ones, which matter most."""

CAUSE_CHARACTERS = 80
"""Characters of the source line or text in a cause."""

_LIBRARIES = (
    "<frozen",
    *{sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")},
)


_ID = re.compile(r"d-[0-9a-f]{12}")


def letter_id() -> str:
    return f"d-{os.urandom(6).hex()}"


def is_letter_id(id: str) -> bool:
    """Whether the text has the form of a dead letter's id. The letter itself may be settled and gone."""
    return isinstance(id, str) and _ID.fullmatch(id) is not None


def unreadable(event: Event) -> Unreadable | None:
    """Why the event's payload cannot be read; None if it can be. A missing class may still be defined."""
    payload = payload_as_sent(event)
    if not isinstance(payload, Loadable):
        return None
    try:
        payload.load()
    except DefinitionError:
        return None
    except StoreError as error:
        return error if isinstance(error, Unreadable) else Unreadable(str(error))
    return None


async def redriven_event(letter: DeadLetter, fix: Callable[[Any], Any] | None) -> Event:
    """The letter's event for one more redrive, with the payload from `fix`. Raises what `fix` raises.

    If the payload cannot be read, `fix` gets the stored text.
    """
    event = letter.event
    payload = payload_as_sent(event)
    if isinstance(payload, Loadable):
        payload = repr(payload) if unreadable(event) else payload.load()
    if fix is not None:
        try:
            # A fix that fails midway must not change the stored payload.
            payload = await awaited(fix(deepcopy(payload)))
            if payload is None and payload_as_sent(event) is not None:
                raise TypeError("fix returned None; it must return the payload to use")
        except Exception as error:
            error.add_note(f"redrive: fix failed for the dead letter {letter.id}, which is still open")
            raise
    headers = headers_of(payload, {**event.headers, REDRIVEN: str(letter.redriven + 1)})
    return Event(payload, event.id, event.source, event.key, headers, event.timestamp, event.attempt)


def redriven(event: Event) -> int:
    """How many times the event has been redriven. The header may come from a broker, so it may hold anything."""
    count = event.headers.get(REDRIVEN) if event.headers else None
    return int(count) if isinstance(count, str) and count.isascii() and count.isdigit() and len(count) < 10 else 0


def dead_letter(state: TriggerState, event: Event, error: BaseException, at: float) -> DeadLetter:
    """The dead letter of an event that could not be decided."""
    definition = state.compiled.definition
    cause = cause_of(error, {}) or f"{type(error).__name__} in {state.name}"
    return _letter(definition, state.name, event, error, cause, at)


def letter_of_run(run: Run, trigger: str, event: Event, error: BaseException, at: float, note: str = "") -> DeadLetter:
    """The dead letter of an event whose run failed for good; `note` says why there is no retry, unless obvious."""
    # Without a frame in the user's code the error is our own, and its text is the cause.
    cause = cause_of(error, _methods(run.definition)) or describe(error)[:CAUSE_CHARACTERS]
    letter = _letter(run.definition, trigger, event, error, cause, at)
    letter.error += note
    letter.attempts = run.attempt
    letter.run_id = run.run_id
    return letter


def _letter(
    definition: SagaDefinition, trigger: str, event: Event, error: BaseException, cause: str, at: float
) -> DeadLetter:
    times = redriven(event)
    return DeadLetter(
        id=letter_id(),
        event=event,
        trigger=trigger,
        saga=definition.name,
        cause=cause,
        error=describe(error) + (f" (again, after redrive {times})" if times else ""),
        traceback=text_of(error),
        attempts=1,
        revision=definition.revision,
        at=at,
        redriven=times,
    )


# --- causes ---


class _Frame(NamedTuple):
    code: CodeType
    line: int

    @property
    def file(self) -> str:
        return self.code.co_filename


def cause_of(error: BaseException, methods: Mapping[CodeType, str]) -> str:
    """The error's class, the action and the place in the user's code, shared by similar dead letters.

    The place is the function's name and the text of its line: line numbers and files change whenever a notebook cell is
    run again. "" if no user code was involved. `methods` maps code to action names.
    """
    frames = [frame for frame in _frames(error) if not frame.file.startswith(PACKAGE_FOLDER)]
    if not frames:
        return ""
    action = next((f" in action {methods[frame.code]!r}," for frame in frames if frame.code in methods), "")
    own = [frame for frame in frames if not frame.file.startswith(_LIBRARIES)]
    # An installed saga lies among the libraries; then the file in which the error surfaced counts.
    code, line = (own or [frame for frame in frames if frame.file == frames[0].file])[-1]
    # Code executed from a string has no source lines.
    text = masked(linecache.getline(code.co_filename, line).strip()) or f"its line {line - code.co_firstlineno}"
    return f"{type(error).__name__}{action} in {code.co_name}: {text[:CAUSE_CHARACTERS]}"


def _frames(error: BaseException) -> Iterator[_Frame]:
    step = error.__traceback__
    while step is not None:
        yield _Frame(step.tb_frame.f_code, step.tb_lineno)
        step = step.tb_next


def _methods(definition: SagaDefinition) -> dict[CodeType, str]:
    found = {}
    for action in definition.actions.values():
        function = getattr(definition.cls, action.method_name)
        for one in (function, inspect.unwrap(function)):
            if isinstance(code := getattr(one, "__code__", None), CodeType):
                found[code] = action.name
    return found


def text_of(error: BaseException) -> str:
    """The traceback without our own frames before the user's."""
    try:
        frames = traceback.TracebackException.from_exception(error)
        while len(frames.stack) > 1 and frames.stack[0].filename.startswith(PACKAGE_FOLDER):
            frames.stack.pop(0)
        return encodable(masked("".join(map(shortened, frames.format()))))[-TRACEBACK_CHARACTERS:]
    except BaseException as broken:
        return f"{describe(error)} (its traceback cannot be shown: {describe(broken)})"
