"""Two claims: of an event's id, which stays, and of its declared key, which is free again when its run was undone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import pytest

from sagaz_lab import (
    Batch,
    Debounce,
    Event,
    Lab,
    Permanent,
    Saga,
    TriggerConfig,
    absent,
    action,
    all_of,
    compensate,
    sequence,
    trigger,
)  # fmt: skip
from sagaz_lab.abc import Acceptance, Refusal
from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, counted

DAY_S = 86400.0


def orders(lab: Lab, **options: Any) -> list[Any]:
    """A saga that does to each event what its payload says; returns what it has worked on."""
    worked: list[Any] = []

    class Orders(Saga):
        on_failure = options.pop("on_failure", "compensate")

        @trigger(source="memory", topic="orders", config=TriggerConfig(max_retries=0), **options)
        def on_order(self, event):
            if event["how"] == "raise":
                raise ValueError("no")
            return dict(event.payload)

        @action("pay")
        async def pay(self, ctx): ...

        @compensate("pay", max_retries=0)
        async def refund(self, ctx):
            if ctx["how"] == "stuck":
                raise Permanent("cannot be undone")

        @action("ship", depends_on=("pay",))
        async def ship(self, ctx):
            worked.append(ctx.get("n"))
            if ctx["how"] == "hang":
                await asyncio.sleep(3600)
            if ctx["how"] != "ok":
                raise Permanent("no")

    return worked


async def give(lab: Lab, how: str, id: str | None = None, **payload: Any) -> Any:
    (outcome,) = await lab.fire("Orders.on_order", {"how": how, **payload}, id=id)
    if how != "hang":
        await lab.drain()
    return outcome


ENDS = {"ok": "completed", "fail": "compensated", "stuck": "compensation_failed"}


@pytest.mark.parametrize("how", ENDS)
async def test_a_redelivery_starts_nothing_however_its_run_ended(each_lab: Lab, how: str) -> None:
    orders(each_lab)
    first = await give(each_lab, how, "e1")
    assert each_lab.run(first.run_id).status == ENDS[how]
    for _ in range(2):
        again = await give(each_lab, how, "e1")
        assert (again.kind, again.run_id) == ("duplicate", first.run_id)
    assert len(each_lab.runs()) == 1
    assert len(each_lab.dead_letters()) == (how == "fail")


async def test_nor_does_it_when_its_run_was_cancelled_or_is_held(each_lab: Lab) -> None:
    orders(each_lab, on_failure="hold")
    held, live = await give(each_lab, "fail", "e1"), await give(each_lab, "hang", "e2")
    assert each_lab.run(held.run_id).status == "held"
    assert await each_lab.compensate_run(live.run_id) == "cancelled"
    assert [(await give(each_lab, "ok", id)).run_id for id in ("e1", "e2")] == [held.run_id, live.run_id]
    await each_lab.stop(0)


@pytest.mark.parametrize(("how", "then"), [("ok", "duplicate"), ("fail", "started"), ("stuck", "duplicate")])
async def test_another_event_with_the_declared_key_starts_if_the_run_was_undone(
    each_lab: Lab, how: str, then: str
) -> None:
    orders(each_lab, idempotency_key="k")
    first = await give(each_lab, how, "e1", k=7)
    assert (await give(each_lab, "ok", "e1", k=8)).run_id == first.run_id
    other = await give(each_lab, "ok", "e2", k=7)
    assert other.kind == then
    if then == "duplicate":
        assert other.run_id == first.run_id


async def test_a_run_that_waits_for_its_retry_keeps_its_declared_key(clock: VirtualClock) -> None:
    async with Lab("memory", clock=clock) as lab:

        class Orders(Saga):
            @trigger(source="memory", topic="t", idempotency_key="k", config=TriggerConfig(max_retries=3))
            def on_order(self, event):
                return {"how": ""}

            @action("ship")
            async def ship(self, ctx):
                raise OSError("down")

        first = await give(lab, "ok", k=1)
        assert lab.run(first.run_id).status == "waiting"
        assert (await give(lab, "ok", k=1)).run_id == first.run_id


async def test_ttl_and_until_concern_the_declared_key_alone(clock: VirtualClock) -> None:
    for options in ({"idempotency_ttl": "1h"}, {"until": "terminal"}):
        async with Lab("memory", clock=clock) as lab:
            orders(lab, idempotency_key="k", **options)
            await give(lab, "ok", "e1", k=1)
            await clock.advance(3600)
            assert (await give(lab, "ok", "e1", k=1)).kind == "duplicate"
            assert (await give(lab, "ok", "e2", k=1)).kind == "started"
            await clock.advance(31 * DAY_S)
            assert (await give(lab, "ok", "e1", k=2)).kind == "started"


async def test_an_event_that_is_fired_without_an_id_has_its_declared_key_alone(each_lab: Lab) -> None:
    orders(each_lab, idempotency_key="k")
    assert [(await give(each_lab, "ok", k=k)).kind for k in (1, 1, 2)] == ["started", "duplicate", "started"]
    assert await each_lab.forget("Orders.on_order") == 2


async def test_forgetting_frees_what_the_text_names_as_an_id_or_as_a_key(each_lab: Lab) -> None:
    orders(each_lab, idempotency_key="k")
    await give(each_lab, "ok", "a", k="b")
    await give(each_lab, "ok", "b", k=7)
    assert await each_lab.forget("Orders.on_order", "b") == 2
    assert [(await give(each_lab, "ok", id, k=k)).kind for id, k in (("b", 8), ("c", "b"), ("d", 7))] == [
        "started", "started", "duplicate",
    ]  # fmt: skip
    assert await each_lab.forget("Orders.on_order", "7") == 1
    assert await each_lab.forget("Orders.on_order") == 5


async def test_a_long_id_and_the_id_of_a_part_can_be_forgotten(each_lab: Lab) -> None:
    orders(each_lab)
    await give(each_lab, "ok", "x" * 600)
    assert await each_lab.forget("Orders.on_order", "x" * 600) == 1

    class Both(Saga):
        @trigger(source=all_of(of_topic("a"), of_topic("b")), within="1h")
        def on_both(self, events):
            return {}

    for part in (0, 1):
        await each_lab.fire("Both.on_both", {}, id="e1", part=part, wait=False)
    await each_lab.drain()
    assert await each_lab.forget("Both.on_both", "e1") == 2


# --- dead letters ---

UNFIT: dict[str, dict[str, Any]] = {
    "a method that raises": {},
    "a missing key": {"idempotency_key": "absent"},
    "a missing window key": {"batch": Batch(9, "1h", key="absent")},
    "a missing turn": {"concurrency_key": lambda event: None if event["how"] == "raise" else "a"},
}


@pytest.mark.parametrize("why", UNFIT)
async def test_an_event_that_cannot_be_decided_leaves_one_letter_however_often_it_comes(
    each_lab: Lab, why: str
) -> None:
    orders(each_lab, **UNFIT[why])
    first = await give(each_lab, "raise", "e1")
    (letter,) = each_lab.dead_letters()["id"]
    again = await give(each_lab, "raise", "e1")
    assert (str(first.kind), str(again.kind)) == ("dead", "duplicate")
    assert letter in again.reason
    assert await each_lab.discard(letter, "known") == 1
    assert (await give(each_lab, "raise", "e1")).kind == "duplicate"
    assert_adds_up(each_lab)


@pytest.mark.parametrize("settled", ["discarded", "redriven and filtered"])
async def test_a_duplicate_of_a_settled_letter_names_the_cure_that_helps(each_lab: Lab, settled: str) -> None:
    fit = False

    class Orders(Saga):
        @trigger(source="memory", topic="t")
        def on_order(self, event):
            return None if fit else {}[event]

    await each_lab.fire("Orders.on_order", {}, id="e1")
    (letter,) = each_lab.dead_letters()["id"]
    fit = True
    await (each_lab.discard(letter, "known") if settled == "discarded" else each_lab.redrive(letter))
    (again,) = await each_lab.fire("Orders.on_order", {}, id="e1")
    assert "lab.forget(trigger, id) frees it" in again.reason
    assert await each_lab.redrive(letter) == []
    assert await each_lab.forget("Orders.on_order", "e1") == 1
    assert (await each_lab.fire("Orders.on_order", {}, id="e1"))[0].kind == "filtered"


async def test_a_payload_that_is_no_json_leaves_one_letter(each_lab: Lab) -> None:
    orders(each_lab)
    kinds = [str((await each_lab.fire("Orders.on_order", b"{", id="e1"))[0].kind) for _ in range(3)]
    assert kinds == ["dead", "duplicate", "duplicate"]


@pytest.mark.parametrize("how", ["raise", "ok"])
async def test_of_deliveries_that_come_at_once_one_counts(each_lab: Lab, how: str) -> None:
    orders(each_lab)
    outcomes = await asyncio.gather(*(give(each_lab, how, f"e{n % 3}") for n in range(30)))
    kinds = sorted(str(outcome.kind) for outcome in outcomes)
    assert kinds == sorted(["duplicate"] * 27 + ["dead" if how == "raise" else "started"] * 3)
    assert len(each_lab.dead_letters()) + len(each_lab.runs()) == 3
    assert_adds_up(each_lab)


async def test_a_redrive_takes_over_the_id_so_that_a_redelivery_starts_nothing(each_lab: Lab) -> None:
    worked = orders(each_lab)
    await give(each_lab, "raise", "undecided", n=1)
    await give(each_lab, "fail", "failed", n=2)
    outcomes = await each_lab.redrive(each_lab.dead_letters()["id"], fix=lambda payload: {**payload, "how": "ok"})
    await each_lab.drain()
    assert [str(outcome.kind) for outcome in outcomes] == ["started", "started"]
    runs = {outcome.event_id: outcome.run_id for outcome in outcomes}
    for id, run_id in runs.items():
        again = await give(each_lab, "raise", id)
        assert (again.kind, again.run_id) == ("duplicate", run_id)
    assert sorted(worked) == [1, 2, 2]
    assert len(each_lab.dead_letters()) == 0


@pytest.mark.parametrize("first", ["raise", "fail"])
async def test_a_redrive_whose_run_cannot_be_stored_leaves_another_letter(each_lab: Lab, first: str) -> None:
    worked: list[str] = []
    how = first

    class Orders(Saga):
        @trigger(source="memory", topic="orders", config=TriggerConfig(max_retries=0))
        def on_order(self, event):
            if how == "raise":
                raise ValueError("no")
            return {"how": how, "rows": iter(()) if how == "unstorable" else ()}

        @action("ship")
        async def ship(self, ctx):
            if ctx["how"] == "fail":
                raise Permanent("no")
            worked.append(ctx["how"])

    await give(each_lab, first, "e1")
    for how, kind in (("unstorable", "dead"), ("unstorable", "dead"), ("ok", "started")):
        (letter,) = each_lab.dead_letters()["id"]
        assert [str(it.kind) for it in await each_lab.redrive(letter)] == [kind]
        await each_lab.drain()
        assert (await give(each_lab, how, "e1")).kind == "duplicate"
        assert letter not in list(each_lab.dead_letters()["id"])
    assert worked == ["ok"]
    assert_adds_up(each_lab)


async def test_a_redrive_bypasses_no_declared_key(each_lab: Lab) -> None:
    orders(each_lab, idempotency_key="k")
    await give(each_lab, "fail", "e1", k=7)
    second = await give(each_lab, "ok", "e2", k=7)
    (outcome,) = await each_lab.redrive(each_lab.dead_letters()["id"])
    assert (outcome.kind, outcome.run_id) == ("duplicate", second.run_id)
    assert (await give(each_lab, "ok", "e1", k=9)).kind == "duplicate"


@pytest.mark.parametrize("queued", [True, False])
async def test_the_cooldown_of_a_failed_run_does_not_filter_its_own_redrive(each_lab: Lab, queued: bool) -> None:
    worked = orders(each_lab, cooldown="1h", concurrency_key="k", max_concurrent_sagas=1)
    await give(each_lab, "fail", "e1", k="a", n=1)
    other = await give(each_lab, "hang", "e0", k="b") if queued else None
    await each_lab.redrive(each_lab.dead_letters()["id"], fix=lambda payload: {**payload, "how": "ok"})
    if other is not None:
        await each_lab.compensate_run(other.run_id)
    await each_lab.drain()
    assert worked.count(1) == 2
    assert (await give(each_lab, "ok", "e2", k="a")).reason == "cooling down"  # it has begun anew


async def test_the_cooldown_of_another_run_filters_a_redrive(timed_lab: Lab, clock: VirtualClock) -> None:
    orders(timed_lab, cooldown="1h")
    await give(timed_lab, "fail", "e1")
    await clock.advance(3601)
    await give(timed_lab, "ok", "e2")
    assert [it.reason for it in await timed_lab.redrive(timed_lab.dead_letters()["id"])] == ["cooling down"]


async def test_the_period_that_a_dead_event_has_opened_does_not_filter_its_redrive(each_lab: Lab) -> None:
    worked = orders(each_lab, debounce=Debounce("1m", "5m", mode="leading"))
    await give(each_lab, "raise", "e1", n=1)
    assert (await give(each_lab, "ok", "e2")).kind == "filtered"
    await each_lab.redrive(each_lab.dead_letters()["id"], fix=lambda payload: {**payload, "how": "ok"})
    await each_lab.drain()
    assert worked == [1]
    assert (await give(each_lab, "ok", "e3")).kind == "filtered"


async def test_of_two_who_redrive_at_once_one_starts_a_run(each_lab: Lab) -> None:
    worked = orders(each_lab)
    for n, how in enumerate(["raise", "fail"] * 5):
        await give(each_lab, how, f"e{n}", n=n)
    ids = list(each_lab.dead_letters()["id"])
    worked.clear()
    fix = {"fix": lambda payload: {**payload, "how": "ok"}}
    await asyncio.gather(*(each_lab.redrive(ids, **fix) for _ in range(3)))
    await each_lab.drain()
    assert sorted(worked) == list(range(10))
    assert_adds_up(each_lab)


class GoneAtRedrive(MemoryStore):
    """Takes nothing in that comes of dead letters."""

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        if batch.redriven:
            raise StoreUnavailable("gone")
        return await super().accept(batch)

    async def settle_letters(self, ids: Any, state: str, reason: str) -> int:
        raise AssertionError("a letter is settled with what comes of it, not by itself")


@pytest.mark.parametrize("how", ["raise", "fail"])
async def test_a_letter_is_open_until_the_store_has_what_came_of_it(how: str) -> None:
    async with Lab(GoneAtRedrive()) as lab:
        worked = orders(lab)
        await give(lab, how, "e1")
        before, ids = list(worked), list(lab.dead_letters()["id"])
        with pytest.raises(StoreUnavailable):
            await lab.redrive(ids)
        assert (list(lab.dead_letters()["id"]), worked) == (ids, before)
        assert_adds_up(lab)


async def test_an_event_that_dies_in_its_window_keeps_its_id(each_lab: Lab) -> None:
    class Together(Saga):
        @trigger(source="memory", topic="t", batch=Batch(2, "1h"))
        def on_two(self, events):
            raise ValueError("no")

    for id in ("e1", "e2", "e1", "e2"):
        await each_lab.fire("Together.on_two", {}, id=id, wait=False)
        await each_lab.drain()
    assert counted(each_lab, "Together.on_two") == {"received": 4, "dead": 2, "duplicate": 2}


@pytest.mark.parametrize("source", ["memory", "mine", "memory:a", "memory:b"])
@pytest.mark.parametrize("dies", ["before its window", "in the run"])
async def test_a_redrive_decides_the_event_of_a_part_for_this_part(each_lab: Lab, source: str, dies: str) -> None:
    fit, worked = False, []

    def order(event: Any) -> Any:
        if not fit and dies == "before its window" and event["n"] == 1:
            raise ValueError("no")
        return event["order"]

    class Both(Saga):
        @trigger(source=sequence(of_topic("a"), of_topic("b")), within="1h", concurrency_key=order,
                 config=TriggerConfig(max_retries=0))  # fmt: skip
        def on_both(self, events):
            return {"ns": [event["n"] for event in events]}

        @action("ship")
        async def ship(self, ctx):
            if not fit:
                raise Permanent("no")
            worked.append(ctx["ns"])

    async def fire(n: int) -> Any:
        event = Event({"order": 1, "n": n}, f"e{n}", source)
        return (await each_lab.fire("Both.on_both", event, part=n, wait=False))[0]

    for n in (0, 1):
        await fire(n)
    await each_lab.drain()
    fit = True
    await each_lab.redrive(each_lab.dead_letters()["id"])
    await each_lab.drain()
    assert worked == [[0, 1]]
    assert [(await fire(n)).kind for n in (0, 1)] == ["duplicate", "duplicate"]


# --- a later event takes its place ---


def of_topic(topic: str) -> dict[str, Any]:
    return {"source": "memory", "topic": topic}


SUPERSEDING: dict[str, dict[str, Any]] = {
    "trailing": {"source": "memory", "topic": "a", "debounce": Debounce("5s", "1m")},
    "all_of": {"source": all_of(of_topic("a"), of_topic("b")), "within": "1h"},
    "sequence": {"source": sequence(of_topic("a"), of_topic("b")), "within": "1h"},
}


@pytest.mark.parametrize("how", SUPERSEDING)
async def test_a_redelivery_lets_no_older_event_win(timed_lab: Lab, clock: VirtualClock, how: str) -> None:
    saw: list[Any] = []

    class Late(Saga):
        @trigger(**SUPERSEDING[how])
        def on_event(self, events):
            together = events if isinstance(events, list) else [events]
            saw.append([event["n"] for event in together])
            return {}

    async def three() -> list[str]:
        return [
            str((await timed_lab.fire("Late.on_event", {"n": n}, id=f"e{n}", wait=False))[0].kind) for n in (1, 2, 3)
        ]

    assert await three() == ["waiting"] * 3
    assert await three() == ["duplicate"] * 3
    if how != "trailing":
        await timed_lab.fire("Late.on_event", {"n": 9}, id="last", part=1, wait=False)
    await clock.advance(6)
    assert await three() == ["duplicate"] * 3
    await clock.advance(6)
    assert saw == [[3] if how == "trailing" else [3, 9]]


async def test_what_was_expected_is_expected_once(timed_lab: Lab, clock: VirtualClock) -> None:
    late: list[Any] = []

    class Watch(Saga):
        @trigger(source=absent(of_topic("payment"), after=of_topic("order"), within="15m"), concurrency_key="order")
        def on_missing(self, order):
            late.append(order["n"])
            return {}

    async def fire(part: int, n: int) -> str:
        payload = {"order": "a", "n": n}
        return str((await timed_lab.fire("Watch.on_missing", payload, id=f"e{n}", part=part, wait=False))[0].kind)

    assert [await fire(1, 1), await fire(0, 2)] == ["waiting", "filtered"]
    assert await fire(1, 1) == "duplicate"  # the order that was paid opens no window again
    assert await fire(1, 3) == "waiting"
    assert await fire(0, 2) == "duplicate"  # the payment of the first closes none of the second
    await clock.advance(16 * 60)
    assert late == [3]


async def test_what_came_out_of_turn_is_not_in_turn_when_it_comes_again(timed_lab: Lab) -> None:
    class Steps(Saga):
        @trigger(source=sequence(of_topic("a"), of_topic("b")), within="1h")
        def on_both(self, events):
            return {}

    fires = [("b", 1, "filtered"), ("a", 0, "waiting"), ("b", 1, "duplicate"), ("b2", 1, "started")]
    for id, part, kind in fires:
        (outcome,) = await timed_lab.fire("Steps.on_both", {}, id=id, part=part, wait=False)
        assert (id, outcome.kind) == (id, kind)


@pytest.mark.parametrize("queued", [True, False])
async def test_with_singleton_cancel_the_replaced_event_replaces_nothing_when_it_comes_again(
    each_lab: Lab, queued: bool
) -> None:
    orders(each_lab, singleton="cancel", max_concurrent_sagas=1, concurrency_key="k")
    if queued:
        await each_lab.fire("Orders.on_order", {"how": "hang", "n": 0, "k": "other"}, id="e0")
    for n in (1, 2, 1):
        await each_lab.fire("Orders.on_order", {"how": "hang", "n": n, "k": "a"}, id=f"e{n}", wait=False)
        await asyncio.sleep(0.05)
    assert each_lab.why("e1").outcomes[-1].kind == "duplicate"
    assert str(each_lab.why("e2").outcomes[-1].kind) == ("waiting" if queued else "started")
    await each_lab.stop(0)


async def test_what_the_queue_dropped_drives_out_no_later_event_when_it_comes_again(each_lab: Lab) -> None:
    class Orders(Saga):
        trigger_config = TriggerConfig(queue_size=1, backpressure_strategy="drop_oldest")

        @trigger(source="memory", topic="t", max_concurrent_sagas=1)
        def on_order(self, event):
            return {}

        @action("ship")
        async def ship(self, ctx):
            await asyncio.sleep(3600)

    kinds = [str((await each_lab.fire("Orders.on_order", {}, id=f"e{n}", wait=False))[0].kind) for n in (1, 2, 3, 2)]
    assert kinds == ["started", "waiting", "waiting", "duplicate"]
    counts = {"received": 4, "started": 1, "waiting": 1, "dropped": 1, "duplicate": 1}
    assert counted(each_lab, "Orders.on_order") == counts
    await each_lab.stop(0)


async def test_a_spent_id_is_free_again_after_a_day(timed_lab: Lab, clock: VirtualClock) -> None:
    class Late(Saga):
        @trigger(**SUPERSEDING["trailing"])
        def on_event(self, event):
            return {}

    for n in (1, 2, 3):
        await timed_lab.fire("Late.on_event", {}, id=f"e{n}", wait=False)
    await clock.advance(DAY_S + 60)
    kinds = [str((await timed_lab.fire("Late.on_event", {}, id=f"e{n}", wait=False))[0].kind) for n in (2, 3)]
    assert kinds == ["waiting", "duplicate"]


async def test_a_duplicate_is_named_after_what_has_come_before_its_id_or_its_key(each_lab: Lab) -> None:
    class Named(Saga):
        @trigger(source="memory", topic="k", idempotency_key="n")
        def on_key(self, event):
            return {}

        @trigger(source="memory", topic="i")
        def on_id(self, event):
            return {}

        @action("act")
        async def act(self, ctx): ...

    async def reason(trigger: str, n: int, id: str) -> str:
        (outcome,) = await each_lab.fire(trigger, {"n": n}, id=id)
        return outcome.reason

    assert await reason("Named.on_key", 1, "a") == await reason("Named.on_id", 1, "a") == ""
    await each_lab.drain()
    assert re.fullmatch(r"its key is taken by run \S+ \(completed\); lab.forget\(trigger, key\) frees it",
                        await reason("Named.on_key", 1, "b"))  # fmt: skip
    for trigger_name in ("Named.on_key", "Named.on_id"):
        said = await reason(trigger_name, 2, "a")
        assert re.fullmatch(r"it has come before as run \S+ \(completed\); lab.forget\(trigger, id\) frees it", said)
        assert await each_lab.forget(trigger_name, "a") == 1
        assert await reason(trigger_name, 2, "a") == ""
    counts = {reason for status in each_lab.status().triggers for _, reason in status.reasons}
    assert counts == {"its key is taken", "it has come before"}
