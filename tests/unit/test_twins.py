"""Broken twins: for each, the check that guards the real thing must fail. A check that passes both guards nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, action, trigger
from sagaz_lab.abc import Acceptance, Attempt, Delivery, Engine, Refusal, Wait
from sagaz_lab.engines.local import compensation as compensation_module
from sagaz_lab.engines.local.engine import LocalEngine
from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.model.run import Run
from sagaz_lab.runtime.clock import SystemClock
from sagaz_lab.runtime.gates.admission import Admission
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.runs.runner import Runner
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing import engines
from sagaz_lab.testing.engines import EngineSuite
from sagaz_lab.testing.stores import StoreSuite
from tests.unit import test_engine
from tests.unit.test_state_machine import Gates
from tests.unit.tools import Tap, Taps, counted, until

# --- a claim that is not taken together with the run ---


class LateClaims(MemoryStore):
    """Looks whether a claim is free, lets others go on, and then takes it."""

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        taken: dict[str, Refusal] = {}
        for run in batch.runs:
            if run.claim is not None:
                for refusal in (await self.seen(run.trigger or "", [run.claim])).values():
                    taken[run.run_id] = refusal
        await asyncio.sleep(0)
        for run in batch.runs:
            if run.claim is not None and run.run_id not in taken:
                await self.forget(run.trigger or "", run.claim)
        batch.runs = [run for run in batch.runs if run.run_id not in taken]
        return {**taken, **await super().accept(batch)}


async def passes(check: Callable[..., Any], *args: Any) -> bool:
    try:
        await check(*args)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(("store", "is_sound"), [(MemoryStore, True), (LateClaims, False)])
async def test_the_store_suite_finds_a_claim_that_two_can_have(store: type[MemoryStore], is_sound: bool) -> None:
    opened = store()
    await opened.open("this notebook")
    assert await passes(StoreSuite.test_of_many_who_claim_at_once_one_wins, StoreSuite(), opened) is is_sound


# --- an ack before the store has it ---


class Hasty(Tap):
    """Its events are acked before the store has them."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        deliveries = await super().receive(limit)
        await self.settle(deliveries, ())
        return deliveries


class FailsOnce(MemoryStore):
    """Away when the first run is to be accepted."""

    failures = 1

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        if batch.runs and self.failures:
            self.failures -= 1
            raise StoreUnavailable("memory")
        return await super().accept(batch)


async def starts_what_the_store_missed_at_first(tap: type[Tap]) -> bool:
    """Whether an event is started although the store was away when it came, and it was given back then."""
    taps, store = Taps(tap), FailsOnce()
    async with Lab(store, sources={"memory": taps}) as lab:

        class Orders(Saga):
            @trigger(source="memory", topic="orders")
            def on_order(self, event):
                return {}

            @action("ship")
            async def ship(self, ctx): ...

        await lab.start()
        await taps["orders"].put({"n": 1}, id="e1")
        await until(lambda: not store.failures)
        lab.pause("Orders.on_order")  # so that it is given back
        await until(lambda: lab.status().sources[0].state == "paused")
        lab.resume("Orders.on_order")
        await taps["orders"].put({"n": 2}, id="e2")
        await until(lambda: "e2" in list(lab.runs()["event_id"]))
        await until(lambda: not taps["orders"].unsettled)
        return counted(lab, "Orders.on_order") == {"received": 2, "started": 2}


@pytest.mark.parametrize(("tap", "is_sound"), [(Tap, True), (Hasty, False)])
async def test_a_store_that_was_away_finds_an_ack_that_came_too_early(tap: type[Tap], is_sound: bool) -> None:
    assert await starts_what_the_store_missed_at_first(tap) is is_sound


# --- a slot that is not given back ---


def forget_slots_of_cancelled_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An admission that does not get the slot of a cancelled run back."""
    cancel, leave, cancelled = Runner.cancel, Admission.leave, set[str]()

    def note(runner: Runner, run: Run) -> None:
        cancelled.add(run.run_id)
        cancel(runner, run)

    def leave_unless_cancelled(admission: Admission, pending: PendingRun, keep_turn: bool = False) -> None:
        if pending.run_id not in cancelled:
            leave(admission, pending, keep_turn)

    monkeypatch.setattr(Runner, "cancel", note)
    monkeypatch.setattr(Admission, "leave", leave_unless_cancelled)


def keeps_count_of_slots() -> bool:
    """Whether the state machine's invariants hold when a run is cancelled."""
    machine = Gates()
    try:
        machine.begin(names=["by_id", "rated", "plain"])
        machine.fire(place=0, events=[("a", "start", 0)])
        machine.both_agree()
        machine.cancel_the_run(("by_id", (1,)))
        machine.both_agree()
        machine.no_slot_is_lost()
    except AssertionError:
        return False
    finally:
        machine.teardown()
    return True


@pytest.mark.parametrize("is_sound", [True, False])
def test_the_state_machine_finds_a_slot_that_a_cancelled_run_kept(
    monkeypatch: pytest.MonkeyPatch, is_sound: bool
) -> None:
    if not is_sound:
        forget_slots_of_cancelled_runs(monkeypatch)
    assert keeps_count_of_slots() is is_sound


# --- undoing in the wrong order ---


def forward(names: Sequence[str]) -> Sequence[str]:
    """In place of `reversed`: what was done first is undone first."""
    return names


@pytest.mark.parametrize("is_sound", [True, False])
async def test_the_engine_s_own_test_finds_compensations_in_forward_order(
    monkeypatch: pytest.MonkeyPatch, lab: Lab, is_sound: bool
) -> None:
    if not is_sound:
        monkeypatch.setattr(compensation_module, "reversed", forward, raising=False)
    check = test_engine.test_compensations_run_in_reverse_also_across_actions_without_one
    assert await passes(check, lab) is is_sound


# --- engines that keep a promise less ---


class Forgetful(LocalEngine):
    """Runs what has finished again."""

    def launch(self, runs: Iterable[Attempt]) -> None:
        super().launch(_without_history(run) for run in runs)


def _without_history(run: Attempt) -> Attempt:
    run.history = None
    return run


class Deaf(LocalEngine):
    """Cancels nothing that waits."""

    def cancel(self, run_id: str) -> None: ...


class Hasty(engines.Noted, kw_only=True, eq=False):
    """Looks to its engine as if nothing had to be waited for."""

    later: Any = None

    def append(self, records: Any) -> Wait:
        self.later = asyncio.ensure_future(self._keep(records))
        return None


@pytest.mark.parametrize("twin", [LocalEngine, Forgetful])
async def test_the_suite_finds_an_engine_that_runs_finished_actions_again(twin: type[LocalEngine]) -> None:
    check = EngineSuite().test_what_is_journaled_as_finished_is_not_run_again
    assert await keeps(twin, check) is (twin is LocalEngine)


@pytest.mark.parametrize("twin", [LocalEngine, Deaf])
async def test_the_suite_finds_an_engine_that_does_not_cancel(
    monkeypatch: pytest.MonkeyPatch, twin: type[LocalEngine]
) -> None:
    monkeypatch.setattr(engines, "WITHIN_S", 0.3)
    assert await keeps(twin, EngineSuite().test_a_cancelled_run_is_compensated) is (twin is LocalEngine)


@pytest.mark.parametrize("journal", [engines.Noted, Hasty])
async def test_the_suite_finds_an_engine_that_does_not_wait_for_the_journal(
    monkeypatch: pytest.MonkeyPatch, journal: type[engines.Noted]
) -> None:
    monkeypatch.setattr(engines, "Noted", journal)
    check = EngineSuite().test_a_start_and_an_end_are_journaled_before_what_follows
    assert await keeps(LocalEngine, check) is (journal is not Hasty)


async def keeps(twin: type[LocalEngine], check: Callable[[Engine], Any]) -> bool:
    engine = twin(SystemClock())
    try:
        return await passes(check, engine)
    except TimeoutError:
        return False
    finally:
        await engine.close()
