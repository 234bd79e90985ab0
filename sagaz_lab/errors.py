"""Every error of the package.

SagazLabError
├── DefinitionError             a class or an option is wrong; raised where it is written
│   ├── UnknownName             a name that nothing defines, with the nearest that exists
│   │   ├── UnknownParam        a param that the trigger does not have
│   │   └── UnknownShadow       a saga without a shadow
│   ├── ParamsOutOfReach        `self.params` read outside a trigger method
│   └── SagaConflict            two modules define the same saga name
├── DecisionError               an event that cannot be decided; it becomes a dead letter
│   ├── DecodeError             the payload cannot be decoded as `decode=` requires
│   ├── PayloadMismatch         the payload does not fit the annotated type; names the field
│   ├── MissingKey              a declared key is missing from the event
│   ├── UnfitKey                a declared key has a type without a canonical text; names it
│   ├── SingletonTaken          singleton="error" and a run of the key is live
│   └── QueueFull               backpressure_strategy="reject" and the queue is full
├── RunError
│   ├── ActionTimeout           an action exceeded its `timeout_s`; also a `TimeoutError`
│   ├── StreamBroken            the producer of a stream failed; names it
│   ├── UnstorableValue         a value that cannot be journaled; names the key and the cure
│   └── CompensationFailed      a compensation failed for good; needs a person
├── SourceError
│   ├── SourceUnavailable       the connection is lost; the runtime reconnects
│   ├── EndOfSource             a finite source is exhausted
│   ├── StaleDelivery           settled too late: the broker has taken the delivery back
│   └── SourceNotReady          its adapter or library is missing
├── StoreError
│   ├── StoreUnavailable        the store does not answer or cannot be written
│   ├── StoreTooNew             the file was written by a newer version
│   ├── LeaseLost               another process has taken over this process's runs
│   ├── Unreadable              a stored run, event or value cannot be read; others are unaffected
│   └── ArtifactDamaged         an artifact is missing or not as this store wrote it
├── TriggersOwned               a live process already runs these triggers
├── TriggerPaused               an event was fired at a paused trigger
├── LabClosed                   the Lab is not open
└── Permanent                   raise it in an action to prevent retries
"""

from __future__ import annotations

import os
from asyncio import CancelledError
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from traceback import TracebackException
from typing import Any

from sagaz_lab.texts import encodable, masked, reveals, shortened

PACKAGE_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
"""Tells this package's frames from the user's."""


class SagazLabError(Exception):
    """Base of the package's errors. Credentials in its text, as in an address, are masked."""

    def __init__(self, *facts: object) -> None:
        super().__init__(*(masked(fact) if isinstance(fact, str) else fact for fact in facts))


class DefinitionError(SagazLabError):
    """A saga, an action, a trigger or an option is wrong as written."""


class UnknownName(DefinitionError):
    """A name that nothing defines.

    `owner` is where it was used, `noun` the kind of thing it should name.
    """

    def __init__(self, owner: str, noun: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        listed = ", ".join(names) if names else "none"
        super().__init__(f"{owner}: no {noun} {name!r}{hint} (known: {listed})")
        self.name = name
        self.nearest = near[0] if near else None


class UnknownParam(UnknownName, KeyError):
    """A param that the trigger does not have; also a `KeyError`, since `self.params` is a mapping."""

    __str__ = Exception.__str__  # a KeyError would quote the text


class UnknownShadow(UnknownName, KeyError):
    """The saga has no shadow; also a `KeyError`, since `lab.shadows` is a mapping."""

    __str__ = Exception.__str__


class ParamsOutOfReach(DefinitionError, AttributeError):
    """`self.params` was read outside a trigger method."""


class SagaConflict(DefinitionError):
    """Two modules define a saga of the same name."""


class DecisionError(SagazLabError):
    """An event that cannot be decided. It becomes a dead letter; no run starts."""


class DecodeError(DecisionError):
    """The payload cannot be decoded as `decode=` requires."""


class PayloadMismatch(DecisionError):
    """The payload does not fit the trigger method's annotation."""


class MissingKey(DecisionError):
    """A declared key is missing from the event."""


class UnfitKey(DecisionError):
    """A declared key has a type without a canonical text."""


class SingletonTaken(DecisionError):
    """A run of the same key is live and the trigger has `singleton="error"`."""


class QueueFull(DecisionError):
    """The trigger's queue is full and its backpressure strategy is `reject`."""


class RunError(SagazLabError):
    """An error in a run other than an action's own."""


class ActionTimeout(RunError, TimeoutError):
    """An action exceeded its `timeout_s`. It may have taken effect, so it is compensated."""

    def __init__(self, action: str, timeout_s: float) -> None:
        super().__init__(f"action {action!r} took longer than {timeout_s:g} s")
        self._of = action, timeout_s

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._of


class StreamBroken(RunError):
    """The producer of a stream failed; its error is the cause."""


class UnstorableValue(RunError):
    """A value that the journal or the outbox cannot store. `cure` says what to use instead."""

    def __init__(self, owner: str, key: str, value: object, why: str = "", cure: str = "") -> None:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        cure = cure or (
            "return plain data, a table, an array, bytes or a dataclass, "
            "or give the action codec='joblib' or your own codec"
        )
        super().__init__(
            f"{owner}: the value of {key!r} is a {kind}, which cannot be stored{why and f' ({why})'}; {cure}"
        )
        self.key = key


class CompensationFailed(RunError):
    """A compensation failed for good: its action's effect remains and needs a person."""


class SourceError(SagazLabError):
    """Base of errors of sources and publishers."""


class SourceUnavailable(SourceError):
    """The connection is lost or refused. The runtime backs off and reconnects."""


class EndOfSource(SourceError):
    """A finite source is exhausted."""


class StaleDelivery(SourceError):
    """The broker has taken deliveries back. Harmless: the store has their events, or they are redelivered."""

    def __init__(self, text: str = "", deliveries: Sequence[Any] = ()) -> None:
        super().__init__(text)
        self.deliveries = deliveries
        """The stale deliveries known to the source."""


class SourceNotReady(SourceError):
    """The source can be defined but not started: its adapter or library is missing."""


class StoreError(SagazLabError):
    """Base of errors of stores."""


class StoreUnavailable(StoreError):
    """The store does not answer or cannot be written. Intake stops until it can; nothing is lost."""


class StoreTooNew(StoreError):
    """The file was written by a newer version of this package."""


class LeaseLost(StoreError):
    """Another process has taken over this process's runs because its heartbeat stopped."""


class ArtifactDamaged(StoreError):
    """An artifact's file is missing or not as this store wrote it."""


class Unreadable(StoreError):
    """A stored run, event or value cannot be read. Nothing else is affected; repair or discard it."""


class TriggersOwned(SagazLabError):
    """A live process already runs these triggers on this store."""


class TriggerPaused(SagazLabError):
    """The trigger takes no events until it is resumed."""


class LabClosed(SagazLabError):
    """The Lab is not open."""


class Permanent(SagazLabError):
    """Raise it, or a subclass, in an action: the run is compensated and not retried.

    An `ExceptionGroup`, as from a `TaskGroup`, counts as permanent if it contains one at any depth; a `__cause__` does
    not.
    """


NO_EXCEPTIONS = (CancelledError, SystemExit, GeneratorExit)
"""Errors outside `Exception` that user code may raise without a signal."""


def is_permanent(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_permanent, error.exceptions)) or isinstance(error, Permanent)
    return isinstance(error, Permanent)


def describe(error: BaseException) -> str:
    """`Type: message`, also for an exception whose `__str__` raises.

    Credentials are masked, lone surrogates escaped, and a very long message is cut.
    """
    try:
        message = encodable(masked(shortened(str(error))))
    except BaseException as failure:
        message = f"<unreadable message: {type(failure).__name__}>"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def without_credentials(
    error: BaseException, known: Collection[str] = (), kind: type[SagazLabError] = SagazLabError
) -> BaseException:
    """The error, safe to raise and log.

    If its traceback reveals a credential (a `known` one or anything that looks like one), a masked traceback in a note
    replaces causes and contexts. If its own text does, an error of `kind` replaces it.
    """
    if not reveals(error, known):
        return error
    try:
        shown = masked("".join(TracebackException.from_exception(error).format()), known)
        own = str(error)
    except BaseException as failure:
        shown = own = f"<unreadable traceback: {type(failure).__name__}>"
    if isinstance(error, BaseExceptionGroup) or masked(own, known) != own:
        error = kind(masked(describe(error), known))
    error.__cause__ = error.__context__ = None
    error.__notes__ = [f"Traceback without credentials:\n{shown}"]
    return error
