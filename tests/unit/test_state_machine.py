"""All gates at once, driven at random in virtual time, beside a plain model of what they promise."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sagaz_lab import Batch, Debounce, Lab, Permanent, Saga, Throttle, action, compensate, skip, trigger
from sagaz_lab.abc import Acceptance, Refusal
from sagaz_lab.errors import StoreUnavailable, TriggerPaused
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.model_of_gates import Arrival, GateModel, ModelRun, Rules
from tests.unit.tools import assert_adds_up

EXAMPLES = int(os.environ.get("GATES_EXAMPLES", "300"))
"""How many sequences of steps are tried; thousands of them by night."""

PHASES = [Phase.reuse, Phase.generate, *([Phase.shrink] if "GATES_SHRINK" in os.environ else [])]
"""Shrinking takes minutes, so it is asked for; the blob that is printed repeats the failure."""

RULES = {
    "plain": Rules(claim="k", ttl_s=64.0),
    "until_end": Rules(claim="k", until="terminal"),
    "by_id": Rules(limit=2),
    "in_turn": Rules(keyed=True, limit=2),
    "one_by_one": Rules(keyed=True, limit=1, retries=2),
    "rated": Rules(rate=0.5),
    "rated_in_turn": Rules(rate=0.25, keyed=True),
    "throttled": Rules(throttle=Throttle(1, 8.0, burst=1, key="k")),
    "throttled_in_turn": Rules(throttle=Throttle(1, 4.0, burst=2), keyed=True, limit=3),
    "cooling": Rules(cooldown_s=4.0, keyed=True),
    "cooling_for_all": Rules(cooldown_s=2.0, limit=1),
    "alone": Rules(singleton="skip"),
    "existing": Rules(singleton="return_existing", keyed=True),
    "alone_or_dead": Rules(singleton="error", keyed=True),
    "latest": Rules(singleton="cancel", keyed=True),
    "keyed_by_id": Rules(claim="k", retries=0, limit=3),
    "batched_by_key": Rules(window=Batch(3, 8.0), claim="k", retries=0),
    "latest_by_id": Rules(singleton="cancel", limit=1),
    "trailing": Rules(window=Debounce(4.0, 10.0, key="k"), keyed=True),
    "all_of_them": Rules(window=Debounce(4.0, 10.0, mode="all")),
    "leading": Rules(window=Debounce(4.0, 10.0, mode="leading", key="k")),
    "batched": Rules(window=Batch(3, 8.0), limit=1, retries=0),
    "blocks": Rules(limit=1, size=2),
    "drops_newest": Rules(limit=1, size=2, strategy="drop_newest"),
    "drops_oldest": Rules(limit=1, size=2, strategy="drop_oldest"),
    "rejects": Rules(keyed=True, size=2, strategy="reject"),
    "window_drops_newest": Rules(window=Debounce(4.0, 10.0, mode="all"), size=2, strategy="drop_newest"),
    "window_drops_oldest": Rules(window=Debounce(4.0, 10.0, mode="all"), size=2, strategy="drop_oldest"),
    "window_rejects": Rules(window=Debounce(4.0, 10.0, mode="all"), size=2, strategy="reject"),
}

PLACES = st.integers(0, 2)
"""Which of the machine's triggers."""
KEYS = st.sampled_from("abc")
EVENTS = st.tuples(KEYS, st.sampled_from(["start"] * 8 + ["skip", "raise"]), st.sampled_from([0, 0, 0, 1, 2, 3]))
"""Key, what the trigger method says, and the number of an id that others may have too (0: an id of its own)."""
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
SPELLINGS = {
    "a": ["a", np.str_("a")],
    "b": [7, 7.0, np.int64(7), Decimal("7.00")],
    "c": [(NOON, {"x", "y"}), [NOON.astimezone(timezone(timedelta(hours=5))), frozenset("yx")]],
}
"""Values that are one key each."""
ODD_KEYS = [None, "", float("nan"), b"", np.datetime64("NaT"), np.array([1, 2]), object(), [None], 10**5000]
ENDS = st.sampled_from(["ok", "ok", "fail", "permanent"])
# All times are sums of quarters, so that nothing is late by a hair.
PERIODS_S = st.sampled_from([0.25, 1.0, 2.0, 4.0, 4.0, 8.0, 16.0, 64.0])


class Begun(NamedTuple):
    """An attempt has begun to work."""

    trigger: str
    serials: tuple[int, ...]
    attempt: int
    at: float


class Stage:
    """Where the runs of the machine work: each waits until it is told how to end."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.log: list[Begun] = []
        self.attempts: dict[tuple[str, tuple[int, ...]], int] = {}
        self.ends: dict[tuple[str, tuple[int, ...]], asyncio.Future[str]] = {}
        self.run_ids: dict[tuple[str, tuple[int, ...]], str] = {}

    async def work(self, name: str, ctx: Any) -> None:
        known = (name, tuple(ctx["serials"]))
        attempt = self.attempts.get(known, 1)
        self.log.append(Begun(*known, attempt, self.clock.monotonic()))
        self.run_ids[known] = ctx.run_id
        assert known not in self.ends, f"{known} works twice"
        end = self.ends[known] = asyncio.get_running_loop().create_future()
        try:
            how = await end
        finally:
            del self.ends[known]
        if how == "ok":
            return
        self.attempts[known] = attempt + 1
        raise OSError("down") if how == "fail" else Permanent("broken")


def decision(name: str, events: Any) -> Any:
    """What all the trigger methods do: as the last event says."""
    together = events if isinstance(events, list) else [events]
    payload = together[-1].payload
    if payload["verdict"] == "raise":
        raise ValueError("bad event")
    if payload["verdict"] == "skip":
        return skip("not wanted")
    return {"name": name, "serials": [event["serial"] for event in together]}


def define(stage: Stage, rules: dict[str, Rules]) -> type[Saga]:
    """The saga with all the triggers; options that differ from the last time make another revision."""

    def method_of(name: str) -> Any:
        def method(self, event):
            return decision(name, event)

        method.__name__ = name
        return trigger(source="memory", topic=name, **rules[name].options())(method)

    class Gated(Saga):
        @action("prepare")
        async def prepare(self, ctx): ...

        @compensate("prepare")
        async def put_back(self, ctx): ...

        @action("work", depends_on=("prepare",))
        async def work(self, ctx):
            await stage.work(ctx["name"], ctx)

        vars().update({name: method_of(name) for name in rules})

    return Gated


class Fragile(MemoryStore):
    """It may be away."""

    away = False

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        if self.away:
            raise StoreUnavailable("away")
        return await super().accept(batch)


class Gates(RuleBasedStateMachine):
    """Fires, ends, cancels, waits, defines anew, pauses and crashes; after each step both must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = VirtualClock(1_704_067_200.0)
        self.stage = Stage(self.clock)
        self.store = Fragile()
        self.rules: dict[str, Rules] = {}
        self.models: dict[str, GateModel] = {}
        self.serials = 0

    def teardown(self) -> None:
        self.runner.run(self.lab.stop(grace_s=0))
        self.runner.close()

    @initialize(names=st.lists(st.sampled_from(sorted(RULES)), min_size=3, max_size=3, unique=True))
    def begin(self, names: list[str]) -> None:
        self.rules = {name: RULES[name] for name in names}
        self.models = {name: GateModel(name, rules) for name, rules in self.rules.items()}
        self.runner.run(self._open())

    async def _open(self) -> None:
        self.lab = Lab(self.store, clock=self.clock, offline=True)
        await self.lab.open()
        self._define()
        await self.lab.start()
        await self._settle()

    def _define(self) -> None:
        with self.lab.activate():
            define(self.stage, self.rules)

    async def _settle(self) -> None:
        """Whatever can happen now happens."""
        for _ in range(3):
            await self.clock.advance(0)

    def _tell_what_was_seen(self) -> None:
        for model in self.models.values():
            model.end_doomed()
        for begun in self.stage.log:
            self.models[begun.trigger].saw_begin(begun.serials, begun.attempt, begun.at)
        self.stage.log.clear()

    def _now(self) -> float:
        return self.clock.monotonic()

    # --- rules ---

    @rule(place=PLACES, events=st.lists(EVENTS, min_size=1, max_size=5))
    def fire(self, place: int, events: list[tuple[str, str, int]]) -> None:
        self.runner.run(self._fire([*self.models][place], events))

    @rule(place=PLACES, key=KEYS, times=st.integers(1, 4))
    def fire_more_of_one_key(self, place: int, key: str, times: int) -> None:
        self.runner.run(self._fire([*self.models][place], [(key, "start", 0)] * times))

    async def _fire(self, name: str, events: list[tuple[str, str, int]]) -> None:
        model = self.models[name]
        for key, verdict, number in events:
            if not model.has_room():
                break
            id = f"e{number}" if number else None
            told = self._told(name, key, verdict, id)
            payload = {"serial": self.serials, "k": self._spelled(key), "verdict": verdict}
            (outcome,) = await self.lab.fire(f"Gated.{name}", payload, id=id, wait=False)
            assert outcome.kind == told, (
                f"{name}: event {self.serials} is {outcome.kind} ({outcome.reason}), not {told}"
            )
            if model.rules.window is not None or model.rules.singleton == "cancel":
                await self._settle()  # what the event has set off happens right after it
                self._tell_what_was_seen()
        await self._settle()

    def _spelled(self, key: str) -> Any:
        """Each time another of the values that are this key."""
        values = SPELLINGS[key]
        return values[self.serials % len(values)]

    @rule(place=PLACES, number=st.integers(0, len(ODD_KEYS) - 1))
    def fire_an_odd_key(self, place: int, number: int) -> None:
        (name, model), value = [*self.models.items()][place], ODD_KEYS[number]
        if model.rules.reads_a_key and model.has_room():
            self.serials += 1
            told = model.arrive_without_key(Arrival(self.serials, None, "", "start", self._now()))
            payload = {"serial": self.serials, "k": value, "verdict": "start"}
            (outcome,) = self.runner.run(self.lab.fire(f"Gated.{name}", payload, wait=False))
            assert outcome.kind == told, f"{name}: an event with odd key {number} is {outcome.kind}"

    @rule(place=PLACES, event=EVENTS)
    def fire_while_the_store_is_away(self, place: int, event: tuple[str, str, int]) -> None:
        self.runner.run(self._fire_while_away([*self.models][place], *event))

    async def _fire_while_away(self, name: str, key: str, verdict: str, number: int) -> None:
        if not self.models[name].has_room():
            return
        id = f"e{number}" if number else None
        payload = {"serial": self.serials + 1, "k": self._spelled(key), "verdict": verdict}
        self.store.away = True
        try:
            (outcome,) = await self.lab.fire(f"Gated.{name}", payload, id=id, wait=False)
        except StoreUnavailable:
            return  # nothing is taken
        finally:
            self.store.away = False
        told = self._told(name, key, verdict, id)
        assert outcome.kind == told, f"{name}: event {self.serials} is {outcome}, not {told}"

    def _told(self, name: str, key: str, verdict: str, id: str | None) -> str:
        """What the model says of the next event."""
        self.serials += 1
        return self.models[name].arrive(Arrival(self.serials, id, key, verdict, self._now()))

    @rule(place=PLACES, key=KEYS)
    def fire_while_paused(self, place: int, key: str) -> None:
        self.runner.run(self._fire_while_paused([*self.models][place], key))

    async def _fire_while_paused(self, name: str, key: str) -> None:
        self.lab.pause(f"Gated.{name}")
        payload = {"serial": self.serials + 1, "k": self._spelled(key), "verdict": "start"}
        with pytest.raises(TriggerPaused):
            await self.lab.fire(f"Gated.{name}", payload, wait=False)
        self.lab.resume(f"Gated.{name}")
        await self._settle()

    @precondition(lambda self: any(not model.has_room() for model in self.models.values()))
    @rule()
    def fire_without_room(self) -> None:
        self.runner.run(self._fire_without_room())

    async def _fire_without_room(self) -> None:
        name = next(name for name, model in self.models.items() if not model.has_room())
        fired = asyncio.create_task(self.lab.fire(f"Gated.{name}", {"serial": 0, "k": "a", "verdict": "start"}))
        await self._settle()
        assert not fired.done(), f"{name} took an event although its queue is full"
        fired.cancel()
        await asyncio.wait([fired])

    @precondition(lambda self: self.stage.ends)
    @rule(data=st.data(), how=ENDS, more=st.booleans())
    def let_runs_end(self, data: st.DataObject, how: str, more: bool) -> None:
        known = sorted(self.stage.ends)
        chosen = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3 if more else 1, unique=True))
        for one in chosen:
            self.models[one[0]].end(self._live(*one), how, self._now())
            self.stage.ends[one].set_result(how)
        self.runner.run(self._settle())

    @precondition(lambda self: self.stage.ends)
    @rule(data=st.data())
    def cancel_a_run(self, data: st.DataObject) -> None:
        self.cancel_the_run(data.draw(st.sampled_from(sorted(self.stage.ends))))

    def cancel_the_run(self, known: tuple[str, tuple[int, ...]]) -> None:
        self.models[known[0]].end(self._live(*known), "cancel", self._now())
        status = self.runner.run(self.lab.compensate_run(self.stage.run_ids[known]))
        assert status == "cancelled"
        self.runner.run(self._settle())

    def _live(self, name: str, serials: tuple[int, ...]) -> ModelRun:
        return next(run for run in self.models[name].of("live") if run.serials == serials)

    @rule(seconds=PERIODS_S)
    def let_time_pass(self, seconds: float) -> None:
        self.runner.run(self.clock.advance(seconds))
        self.runner.run(self._settle())

    @rule(limit=st.integers(1, 3))
    def define_anew(self, limit: int) -> None:
        for name, model in self.models.items():
            one_at_a_time = model.rules.singleton is not None and not model.rules.keyed
            if model.rules.limit is not None and not one_at_a_time:
                self.rules[name] = model.rules = replace(model.rules, limit=limit)
        self.runner.run(self._define_anew())

    async def _define_anew(self) -> None:
        self._define()
        await self._settle()

    @rule(place=PLACES)
    def forget(self, place: int) -> None:
        name, model = [*self.models.items()][place]
        model.forget()
        self.runner.run(self._forget(name))

    async def _forget(self, name: str) -> None:
        await self.lab.forget(f"Gated.{name}")
        await self._settle()

    @rule()
    def crash(self) -> None:
        for model in self.models.values():
            model.reopen(self._now())
        self.runner.run(self._crash())

    async def _crash(self) -> None:
        await self.lab.stop(grace_s=0)
        assert not self.stage.ends
        await self._open()

    # --- what holds after each step ---

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "lab"):
            return
        self._tell_what_was_seen()
        assert_adds_up(self.lab)
        for name, model in self.models.items():
            model.check(self._now())
            counters = {kind: n for kind, n in self.lab.counters()[f"Gated.{name}"].items() if n}
            assert counters == {kind: n for kind, n in model.counts.items() if n}, name
            if model.rules.strategy != "block":
                assert counters.get("waiting", 0) <= model.rules.size, f"{name} holds more than its queue has room for"

    @invariant()
    def no_slot_is_lost(self) -> None:
        if not hasattr(self, "lab"):
            return
        status = self.lab.status()
        live = {(name, run.serials) for name, model in self.models.items() for run in model.of("live")}
        assert live == set(self.stage.ends)
        assert {run.run_id for run in status.runs} == {self.stage.run_ids[one] for one in live}
        triggers = {trigger.name: trigger for trigger in status.triggers}
        for name, model in self.models.items():
            trigger = triggers[f"Gated.{name}"]
            assert trigger.running == len(model.of("live")), name
            assert trigger.queue.waiting == model.waiting(), name

    @invariant()
    def each_event_has_one_outcome(self) -> None:
        if not hasattr(self, "lab"):
            return
        _, open_letters = self.store.rows("dead_letters", None)
        assert len(open_letters) == sum(model.letters for model in self.models.values())


TestGates = pytest.mark.timeout(600)(Gates.TestCase)
TestGates.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=PHASES,
)
