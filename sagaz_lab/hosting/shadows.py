"""Shadows: edited revisions that decide live events alongside the current ones, and the comparison."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import Any

from sagaz_lab.abc import DecidedOutcomes, Delivery, Observer, Store
from sagaz_lab.errors import LabClosed, UnknownShadow, describe
from sagaz_lab.history import tables
from sagaz_lab.model.run import Run
from sagaz_lab.model.saga import Saga
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.registry.changes import Change
from sagaz_lab.runtime.registry.registry import CallThere, call_here
from sagaz_lab.runtime.runs.runner import Runner
from sagaz_lab.runtime.shadow.comparison import Difference
from sagaz_lab.runtime.shadow.shadow import Shadow
from sagaz_lab.runtime.triggers.observers import Observers
from sagaz_lab.runtime.triggers.triggers import Triggers

logger = logging.getLogger("sagaz_lab")

DTYPES: Mapping[str, str | None] = {
    "event_id": "text",
    "trigger": "category",
    "current": "category",
    "shadow": "category",
    "what": "category",
    "details": "text",
    "current_reason": "text",
    "shadow_reason": "text",
    "current_facts": None,
    "shadow_facts": None,
    "at": "time",
}


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """Compares the decisions of a shadow and the current revision since the shadow began.

    `seen` counts the decisions of triggers that both have: seen = same + different + waiting. `different` counts by
    (current kind, shadow kind); `waiting` ones are not decided by both yet. The shadow never received the `missed`
    ones. `differences` holds the newest 1,000, newest first. `change` is the effect of registering the shadow;
    `notes` list what cannot be compared.
    """

    saga: str
    current: int
    since: datetime
    seen: int
    same: int
    different: Mapping[tuple[str, str], int]
    waiting: int
    missed: int
    change: Change
    notes: Sequence[str] = ()
    ended: bool = False
    differences: Sequence[Difference] = field(default=(), repr=False)

    def __repr__(self) -> str:
        differ = sum(self.different.values())
        counts = f"{self.seen} seen, {self.same} the same, {differ} different, {self.waiting} waiting"
        return f"ShadowReport({self.saga} beside r{self.current}: {counts})"

    def frame(self) -> Any:
        """The differences as a DataFrame, newest first."""
        row = attrgetter(*DTYPES)
        dtypes = {name: kind for name, kind in DTYPES.items() if kind is not None}
        return tables().to_frame(tuple(DTYPES), [row(one) for one in self.differences], dtypes)


class Shadows(Mapping[str, ShadowReport], Observer):
    """The current reports of a Lab's shadows by saga name. Shadows end when the Lab stops.

    `call_there` calls a function on the thread that decides events; shadows begin, are read and end there.
    """

    def __init__(
        self, life: Lifetime, triggers: Triggers, observers: Observers, runner: Runner,
        open_store: Callable[[str], Store], call_there: CallThere = call_here,
    ) -> None:  # fmt: skip
        self._life = life
        self._triggers = triggers
        self._observers = observers
        self._runner = runner
        self._open_store = open_store
        self._call_there = call_there
        self._shadows: dict[str, Shadow] = {}

    def __getitem__(self, saga: str) -> ShadowReport:
        if saga not in self._shadows:  # a miss need not wait for the thread
            raise UnknownShadow("shadow", "shadow of", saga, self)
        return self._call_there(partial(self._report_of, saga))

    def _report_of(self, saga: str) -> ShadowReport:
        if saga not in self._shadows:
            raise UnknownShadow("shadow", "shadow of", saga, self)
        return _report(self._shadows[saga])

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._shadows))

    def __len__(self) -> int:
        return len(self._shadows)

    def __repr__(self) -> str:
        return f"Shadows({', '.join(map(repr, self.values())) or 'none'})"

    def begin(self, *classes: type[Saga]) -> list[ShadowReport]:
        """Begin a shadow of each class, or of none if one fails. A shadow replaces an earlier one of its saga.

        Raises `DefinitionError` if no saga of that name is registered, and `LabClosed`.
        """
        return self._call_there(partial(self._begin, classes))

    def _begin(self, classes: Sequence[type[Saga]]) -> list[ShadowReport]:
        if self._life.closing:
            raise LabClosed("the Lab has been stopped: start it, then begin the shadow")
        drafts = [self._triggers.registry.draft(cls) for cls in classes]
        here = self._life, self._triggers, self._runner
        begun = {change.name: Shadow(*here, change, definition, self._open_store("memory"))
                 for change, definition in drafts}  # fmt: skip
        self._end(begun)
        self._shadows.update(begun)
        self._observers.add(self)
        return [_report(shadow) for shadow in begun.values()]

    def end(self, saga: str) -> ShadowReport:
        """End a shadow; returns its last report. Raises `UnknownName`."""
        return self._call_there(partial(self._end_one, saga))

    def _end_one(self, saga: str) -> ShadowReport:
        last = self[saga]
        self._end([saga])
        return replace(last, ended=True)

    def _end(self, sagas: Iterable[str]) -> None:
        for name in sagas:
            if (shadow := self._shadows.pop(name, None)) is not None:
                shadow.end()
        if not self._shadows:
            self._observers.remove(self)

    # --- observer hooks ---

    def received(self, deliveries: Sequence[Delivery], triggers: Sequence[tuple[str, int]]) -> None:
        for name, part in triggers:
            state = self._triggers.states[name]
            definition = state.compiled.definition
            if (shadow := self._shadows.get(definition.name)) is not None:
                if shadow.current is not definition:
                    self._end([definition.name])
                else:
                    self._guarded(shadow, lambda it, s=state, p=part: it.feed(s, p, deliveries))  # type: ignore[misc]

    def decided(self, outcomes: DecidedOutcomes) -> None:
        saga = outcomes[0].trigger.rpartition(".")[0] if outcomes else ""
        if (shadow := self._shadows.get(saga)) is not None:
            self._guarded(shadow, lambda it: it.live_decided(outcomes))

    def ended(self, run: Run) -> None:
        if (shadow := self._shadows.get(run.definition.name)) is not None:
            self._guarded(shadow, lambda it: it.live_ended(run))

    def _guarded(self, shadow: Shadow, what: Callable[[Shadow], None]) -> None:
        """An error here ends the shadow and never affects the trigger."""
        try:
            what(shadow)
        except Exception as error:
            name = shadow.current.name
            logger.exception("shadow of %s", name)
            self._end([name])
            self._life.report(f"shadow:{name}", f"the shadow of {name} ended with an error: {describe(error)}")

    def changed(self, sagas: Collection[str]) -> None:
        """The revision it is compared with is no longer current."""
        self._end(sagas)

    async def caught_up(self) -> None:
        while not all(shadow.caught_up() for shadow in self._shadows.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        ended = list(self._shadows.values())
        self._end(list(self._shadows))
        for shadow in ended:
            await shadow.close()


def _report(shadow: Shadow) -> ShadowReport:
    comparison = shadow.comparison
    return ShadowReport(
        saga=shadow.current.name,
        current=shadow.current.revision,
        since=datetime.fromtimestamp(shadow.since, UTC),
        seen=comparison.seen,
        same=comparison.same,
        different=dict(comparison.different.most_common()),
        waiting=comparison.waiting,
        missed=shadow.missed,
        change=shadow.change,
        notes=list(_notes(shadow)),
        ended=shadow.ended,
        differences=tuple(reversed(comparison.differences)),
    )


def _notes(shadow: Shadow) -> Iterator[str]:
    before, after = shadow.current.triggers, shadow.definition.triggers
    for method, trigger in after.items():
        if method not in before:
            yield f"trigger {trigger.name} is new: it gets no events while it is a shadow"
        elif before[method].spec.identity != trigger.spec.identity:
            old, new = before[method].spec, trigger.spec
            yield f"trigger {trigger.name}: its events still come from {old}, not from {new}"
    for method, trigger in before.items():
        if method not in after:
            yield f"trigger {trigger.name} is not in the shadow: it is not compared"
