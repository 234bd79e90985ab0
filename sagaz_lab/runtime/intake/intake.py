"""The intake: one pump per distinct source settings, or per trigger if the source is not shared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial

from sagaz_lab.abc import Missed, Source
from sagaz_lab.errors import SourceNotReady
from sagaz_lab.model.trigger import SourceSpec, Trigger, number_of, specs_of
from sagaz_lab.runtime.intake.ports import Hears, Take
from sagaz_lab.runtime.intake.pump import Pump
from sagaz_lab.runtime.intake.shared import SharedThings
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.triggers.state import Reader, TriggerState

OpenSource = Callable[[Trigger, SourceSpec, Hears], Source | None]
"""None if the Lab is offline: only `fire` brings events."""


SOON_S = 1.0

ANSWER_S = 10.0
"""A source that connects more slowly does not delay the others."""


class Intake:
    """Starts and stops pumps so that exactly the sources of started triggers are read."""

    def __init__(self, life: Lifetime, take: Take, open_source: OpenSource) -> None:
        self._life = life
        self._take = take
        self._open_source = open_source
        self.pumps: dict[str, Pump] = {}
        self.shared = SharedThings(life.tasks)

    def hand_over(self, states: Iterable[TriggerState]) -> None:
        """Deliveries go to these triggers from now on; connections change with `read`."""
        wanted, _ = _readers(states)
        for identity, pump in self.pumps.items():
            pump.read_for(wanted.get(identity, ()))

    async def read(
        self, wanted_now: Callable[[], Iterable[TriggerState]], may_receive: asyncio.Event | None = None
    ) -> None:
        """Read the sources of these triggers. A source that is read with the same settings is left alone.

        The others receive nothing before `may_receive` is set, if given.
        """
        wanted, _ = _readers(wanted_now())
        await self._stop([identity for identity in self.pumps if identity not in wanted])
        wanted, specs = _readers(wanted_now())  # closing takes time, during which others may become wanted
        for identity, readers in wanted.items():
            pump = self.pumps.get(identity)
            if pump is not None and pump.state not in ("failed", "stopped"):
                pump.read_for(readers)
                continue
            # deterministic, whichever was defined first
            spec, trigger = specs[identity], min(readers, key=_name)[0].compiled.trigger
            opened = partial(self._open_source, trigger, spec)
            if spec.divided and (rival := _rival(identity, specs)):
                opened = partial(_refuse, spec, opened, [_name(readers[0]), _name(wanted[rival][0])])
            pump = Pump(spec, opened, readers, self._life, self._take)
            pump.may_receive = may_receive or pump.may_receive
            self.pumps[identity] = pump
            pump.start()

    async def answered(self) -> None:
        """Returns when each source has connected or failed, after at most `ANSWER_S`."""
        if waiting := [pump.answered for pump in self.pumps.values() if not pump.answered.done()]:
            await asyncio.wait(waiting, timeout=ANSWER_S)

    def pumps_of(self, names: Collection[str]) -> list[Pump]:
        """The pumps of these triggers' sources."""
        return [pump for pump in self.pumps.values() if any(state.name in names for state in pump.states)]

    async def connected(self, pumps: Iterable[Pump]) -> None:
        """Returns when each is connected or no longer wanted; raises the error of the first that fails."""
        for pump in pumps:
            ends = [pump.connected] if pump.task is None else [pump.connected, pump.task]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if pump.connected.done():
                pump.connected.result()

    def refuse_failed(self, pumps: Iterable[Pump]) -> None:
        """Raises the error of the first that cannot be connected."""
        for pump in pumps:
            if pump.connected.done() and (error := pump.connected.exception()) is not None:
                names = ", ".join(state.name for state in pump.states)
                error.add_note(f"{names} cannot start, so nothing starts; with skip_failed=True the others do")
                raise error

    async def missed(self) -> dict[str, Missed]:
        """By trigger, what came due while its source was not read, as far as known soon. Returned once."""
        waiting = [pump.connected for pump in self.pumps.values() if not pump.connected.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=SOON_S)
        found = {}
        for pump in self.pumps.values():
            if pump.missed is not None:
                found.update(dict.fromkeys((state.name for state in pump.states), pump.missed))
                pump.missed = None
        return found

    async def ended(self) -> None:
        """Returns when the finite sources are exhausted."""
        for pump in list(self.pumps.values()):
            await pump.opened.wait()
        tasks = [pump.task for pump in self.pumps.values() if pump.traits.finite and pump.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        pumps = [self.pumps.pop(identity) for identity in list(self.pumps)]
        await _stopped(pumps, Pump.stop)

    async def abandon(self, why: str) -> None:
        """Stop reading; the status still shows each source, with the reason."""
        pumps = list(self.pumps.values())
        await _stopped(pumps, Pump.stop_in_time)
        for pump in pumps:
            pump.abandoned(why)

    async def _stop(self, identities: Collection[str]) -> None:
        await _stopped([self.pumps.pop(identity) for identity in identities], Pump.stop_in_time)


async def _stopped(pumps: Collection[Pump], stop: Callable[[Pump], Awaitable[None]]) -> None:
    for pump in pumps:
        for state in pump.states:
            state.wake()
    await asyncio.gather(*map(stop, pumps))


def _rival(identity: str, specs: Mapping[str, SourceSpec]) -> str | None:
    mine = specs[identity].divided
    return next((other for other, spec in specs.items() if other != identity and spec.divided == mine), None)


def _refuse(
    spec: SourceSpec, opened: Callable[[Hears], Source | None], names: Collection[str], hears: Hears
) -> Source | None:
    """Raises `SourceNotReady` unless the Lab is offline: the triggers would divide the events of the source."""
    if opened(hears) is None:
        return None
    raise SourceNotReady(
        f"{' and '.join(sorted(names))} read {spec} with different settings in one consumer group, so that each would "
        "get a part of the events: give both the same settings, or each a consumer group of its own"
    )


def _name(reader: Reader) -> str:
    return reader[0].name


def _readers(states: Iterable[TriggerState]) -> tuple[dict[str, list[Reader]], dict[str, SourceSpec]]:
    """The readers of each source, and its settings, by identity."""
    readers: dict[str, list[Reader]] = {}
    specs: dict[str, SourceSpec] = {}
    for state in states:
        for part, spec in enumerate(specs_of(state.compiled.trigger)):
            identity = spec.identity
            if not spec.traits.shared:
                identity += f" of {state.name} {number_of(state.compiled.trigger, spec)}"
            specs[identity] = spec
            readers.setdefault(identity, []).append((state, part))
    return readers, specs
