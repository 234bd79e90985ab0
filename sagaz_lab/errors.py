"""Every error of the package.

SagazLabError
├── DefinitionError             a class or an option is wrong; raised where it is written
│   ├── UnknownName             a name that nothing defines, with the nearest that exists
│   │   ├── UnknownParam        a param that the trigger does not have
│   │   └── UnknownShadow       a saga that has no shadow now
│   ├── ParamsOutOfReach        `self.params` read elsewhere than in a trigger method
│   └── SagaConflict            two modules define one saga name
├── DecisionError               an event that cannot be decided; it becomes a dead letter
│   ├── DecodeError             the payload's bytes are not what `decode=` says
│   ├── PayloadMismatch         the payload does not fit the annotated type; names the field
│   ├── MissingKey              a declared key is not in the event
│   ├── UnfitKey                a declared key cannot be compared as text; names its type
│   ├── SingletonTaken          singleton="error", and a run of the key is live
│   └── QueueFull               backpressure_strategy="reject", and the queue is full
├── RunError
│   ├── ActionTimeout           an action took longer than its `timeout_s`; a `TimeoutError` too
│   ├── StreamBroken            the producer of a stream failed; names it
│   ├── UnstorableValue         a value that cannot be journaled; names the key and the cure
│   └── CompensationFailed      a compensation failed for good; a person is needed
├── SourceError
│   ├── SourceUnavailable       the connection is lost; the runtime opens it again
│   ├── EndOfSource             a finite source has given all it had
│   ├── StaleDelivery           settled too late: the broker has taken it back
│   └── SourceNotReady          its adapter or library is missing
├── StoreError
│   ├── StoreUnavailable        the store does not answer, or cannot be written
│   ├── StoreTooNew             the file was written by a newer version
│   ├── LeaseLost               another process has taken over this one's runs
│   ├── Unreadable              a stored run, event or value cannot be read; all others go on
│   └── ArtifactDamaged         an artifact is not what this store has written
├── TriggersOwned               a live process already runs these triggers
├── TriggerPaused               an event by hand for a trigger that takes none now
├── LabClosed                   the Lab is not open
└── Permanent                   raise it in an action: a retry would not help
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
"""By it frames of this package are told from the user's."""


class SagazLabError(Exception):
    """Base of all errors of this package. A credential in its text, as in an address, is masked."""

    def __init__(self, *facts: object) -> None:
        super().__init__(*(masked(fact) if isinstance(fact, str) else fact for fact in facts))


class DefinitionError(SagazLabError):
    """A saga, an action, a trigger or an option is wrong as written."""


class UnknownName(DefinitionError):
    """A name that nothing defines.

    `owner` says where it was used, `noun` what it should have been.
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
    """A param that the trigger does not have; a `KeyError` too, since `self.params` is a mapping."""

    __str__ = Exception.__str__  # a KeyError would quote the text


class UnknownShadow(UnknownName, KeyError):
    """The saga has no shadow now; a `KeyError` too, since `lab.shadows` is a mapping."""

    __str__ = Exception.__str__


class ParamsOutOfReach(DefinitionError, AttributeError):
    """`self.params` was read elsewhere than in a trigger method."""


class SagaConflict(DefinitionError):
    """Two modules define a saga of the same name."""


class DecisionError(SagazLabError):
    """An event that cannot be decided. It becomes a dead letter; no run starts."""


class DecodeError(DecisionError):
    """The payload's bytes are not what `decode=` says they are."""


class PayloadMismatch(DecisionError):
    """The payload does not fit the type that the trigger method asks for."""


class MissingKey(DecisionError):
    """A declared key is not in the event."""


class UnfitKey(DecisionError):
    """A declared key is of a type that has no canonical text; it names the type."""


class SingletonTaken(DecisionError):
    """A run of the same key is live, and the trigger is `singleton="error"`."""


class QueueFull(DecisionError):
    """The trigger's queue is full and its backpressure strategy is `reject`."""


class RunError(SagazLabError):
    """Something went wrong in a run, beyond the action's own error."""


class ActionTimeout(RunError, TimeoutError):
    """An action took longer than its `timeout_s`. It may have happened, so it is compensated."""

    def __init__(self, action: str, timeout_s: float) -> None:
        super().__init__(f"action {action!r} took longer than {timeout_s:g} s")
        self._of = action, timeout_s

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._of


class StreamBroken(RunError):
    """The producer of a stream failed; its error is the cause."""


class UnstorableValue(RunError):
    """A value that the journal or the outbox cannot keep. `cure` says what to do instead."""

    def __init__(self, owner: str, key: str, value: object, why: str = "", cure: str = "") -> None:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        cure = cure or (
            "return plain data, a table, an array, bytes or a dataclass, "
            "or give the action codec='joblib' or a codec of your own"
        )
        super().__init__(
            f"{owner}: the value of {key!r} is a {kind}, which cannot be stored{why and f' ({why})'}; {cure}"
        )
        self.key = key


class CompensationFailed(RunError):
    """A compensation failed for good: what its action did still stands, and a person is needed."""


class SourceError(SagazLabError):
    """A source of events."""


class SourceUnavailable(SourceError):
    """The connection is lost or cannot be made. The runtime backs off and opens the source again."""


class EndOfSource(SourceError):
    """A finite source has given all it had."""


class StaleDelivery(SourceError):
    """The broker has taken deliveries back. Harmless: the store knows their events, or they come again."""

    def __init__(self, text: str = "", deliveries: Sequence[Any] = ()) -> None:
        super().__init__(text)
        self.deliveries = deliveries
        """Those that are stale, as far as the source knows them."""


class SourceNotReady(SourceError):
    """The source can be defined but not started: its adapter or library is missing."""


class StoreError(SagazLabError):
    """The store."""


class StoreUnavailable(StoreError):
    """The store does not answer or cannot be written. Intake stops until it can; nothing is lost."""


class StoreTooNew(StoreError):
    """The file was written by a newer version of this package."""


class LeaseLost(StoreError):
    """Another process has taken over this one's runs, because its heartbeat had stopped."""


class ArtifactDamaged(StoreError):
    """An artifact's file is missing, or not what this store has written."""


class Unreadable(StoreError):
    """A stored run, event or value cannot be read. It concerns nothing else; repair what is stored, or discard it."""


class TriggersOwned(SagazLabError):
    """A live process already runs these triggers on this store."""


class TriggerPaused(SagazLabError):
    """The trigger takes no events until it is resumed."""


class LabClosed(SagazLabError):
    """The Lab is not open."""


class Permanent(SagazLabError):
    """Raise it, or a subclass, in an action: the run is compensated and not tried again.

    An `ExceptionGroup`, as of a `TaskGroup`, counts as one if it has one in it, at any depth; a `__cause__` does not.
    """


NO_EXCEPTIONS = (CancelledError, SystemExit, GeneratorExit)
"""What a user's code may raise that is no `Exception`, and that no signal has asked for."""


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
        message = f"<its message cannot be shown: {type(failure).__name__}>"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def without_credentials(
    error: BaseException, known: Collection[str] = (), kind: type[SagazLabError] = SagazLabError
) -> BaseException:
    """The error as it may be raised and logged.

    Where its traceback tells a credential, one of the `known` ones or what looks like one, a masked text of the
    traceback stands in a note, in place of causes and contexts. An error whose own text tells one is replaced by one of
    our `kind`.
    """
    if not reveals(error, known):
        return error
    try:
        shown = masked("".join(TracebackException.from_exception(error).format()), known)
        own = str(error)
    except BaseException as failure:
        shown = own = f"<it cannot be shown: {type(failure).__name__}>"
    if isinstance(error, BaseExceptionGroup) or masked(own, known) != own:
        error = kind(masked(describe(error), known))
    error.__cause__ = error.__context__ = None
    error.__notes__ = [f"The traceback, without its credentials:\n{shown}"]
    return error
