"""A trigger's state, which persists across revisions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from sagaz_lab.abc import Clock
from sagaz_lab.errors import DefinitionError
from sagaz_lab.model.limits import checked_limits, limits_of, with_limits
from sagaz_lab.model.params import Scalar, checked_change
from sagaz_lab.runtime.gates.admission import Slots
from sagaz_lab.runtime.gates.core import Core
from sagaz_lab.runtime.triggers.compiled import CompiledTrigger
from sagaz_lab.runtime.triggers.live_params import LiveParams
from sagaz_lab.runtime.triggers.outcomes import Counters

RETRYING = 10_000
"""Runs of a trigger that may wait for a retry; beyond this it takes no events, whatever the strategy."""

_HEARD = frozenset({"on_trigger_filtered", "on_trigger_dropped", "on_trigger_dead"})


class TriggerState:
    """A trigger's state across revisions: counters, queue, windows, and whether it is paused."""

    def __init__(self, compiled: CompiledTrigger, counters: Counters, slots: Slots) -> None:
        self.name = compiled.trigger.name
        self.compiled = compiled
        self.counters = counters
        self.params = LiveParams(self.name, compiled.trigger.params)
        self.limits = LiveParams(self.name, limits_of(compiled.trigger))
        self.core = Core(compiled.rules(compiled.trigger.gates), slots)
        self.paused = False
        self.removed = False
        self.reported_hidden_fields = False
        self.told_claimed = False
        self.blocked_by = ""
        self.blocked_s = 0.0
        self.blocked_since: float | None = None
        self.retrying = 0
        self.exclusive = asyncio.Lock()
        self.deciding = False
        """Whether a batch is being decided or stored."""
        self.coming: CompiledTrigger | None = None
        """The revision to take over once the current batch is decided."""
        self.meanwhile: list[Callable[[], object]] = []
        """Changes of runs meanwhile, still to be applied to the gates."""
        self._waiters: list[asyncio.Future[None]] = []
        self.show_params()

    def use(self, compiled: CompiledTrigger) -> None:
        """Switch to another revision; waiting events and runs stay."""
        self.coming = None
        self.params.use(compiled.trigger.params)
        self.limits.use(limits_of(compiled.trigger))
        self.compiled = compiled
        self.show_params()
        if self.core.windows is not None:
            self.core.windows.regroup(compiled.in_window)
        self.removed = False
        self.blocked_by = ""  # if the broker is still down, the next attempt finds out
        self.wake()

    def show_params(self) -> None:
        """Apply the current params to the method, and the limits to the gates."""
        compiled = self.compiled
        for name, value in self.params.changed.items():
            try:
                self.checked_params({name: value})
            except DefinitionError:  # the cell's new bounds exclude the value
                self.params.withdraw(name)
        compiled.show(self.params.values)
        self.loading = self.params.loading
        for name, value in self.limits.changed.items():
            try:
                checked_limits(compiled.trigger, {name: value})
            except DefinitionError:  # an option of the cell contradicts the limit
                self.limits.withdraw(name)
        if self.deciding:  # a batch keeps the same limits throughout
            self.meanwhile.append(self._use_limits)
        else:
            self._use_limits()

    def _use_limits(self) -> None:
        self.core.use(self.compiled.rules(with_limits(self.compiled.trigger.gates, self.limits.values)))

    def checked_params(self, values: Mapping[str, Any]) -> dict[str, Scalar]:
        """Raises `UnknownParam` and `DefinitionError`."""
        return checked_change(self.name, self.params.defaults, self.compiled.trigger.ranges, values)

    @property
    def waits_after_accept(self) -> bool:
        """Whether accepting a batch needs more than starting runs: listeners, windows, or a run to be replaced."""
        hooks, singleton = self.compiled.definition.hooks, self.compiled.singleton
        return self.core.windows is not None or singleton == "cancel" or not _HEARD.isdisjoint(hooks)

    @property
    def has_unknown_cooldowns(self) -> bool:
        """Whether the store is to be asked for its cooldowns before a run may begin."""
        return self.compiled.cooldown_s is not None and not self.core.cooldowns.known

    @property
    def waits_in_windows(self) -> int:
        """How many events wait in its windows."""
        return 0 if self.core.windows is None else self.core.windows.size

    def room(self) -> int:
        """Events that may be taken now. Only `block` makes the source wait; other strategies decide per event."""
        if self.paused or self.loading or self.blocked_by or self.retrying >= RETRYING:
            return 0
        if self.compiled.config.backpressure_strategy == "block":
            admission, waits = self.core.admission, self.compiled.policy is not None
            free = admission.size - admission.all_waiting() if waits else admission.free()
            return max(0, free - self.counters.deciding)
        return max(1, self.core.admission.size)

    def pause(self) -> None:
        self.paused = True
        self.wake()  # callers that wait with a fired event must notice

    def resume(self) -> None:
        self.paused = False
        self.wake()

    async def held_up(self, clock: Clock) -> None:
        """Returns when `room` may have changed. Adds up how long a source waits for room, except during a pause."""
        if self.paused or self.blocked_since is not None:
            return await self.changed()
        self.blocked_since = clock.monotonic()
        try:
            await self.changed()
        finally:
            self.blocked_s += clock.monotonic() - self.blocked_since
            self.blocked_since = None

    async def changed(self) -> None:
        """Returns when `room` may have changed."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def wake(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


Reader = tuple[TriggerState, int]
"""A trigger that reads a source, and its part number in a composite (else 0)."""
