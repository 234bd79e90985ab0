"""The promises of the `Store` protocol as a test suite for stores.

Subclass `StoreSuite` in a test module and define the fixture `make_store`: each call returns a store, not opened yet,
over the same data. If only one store object can have the data, set `shared = False`. Needs pytest and pytest-asyncio
with asyncio_mode=auto.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from itertools import product
from random import Random

import pytest

from sagaz_lab.abc import Acceptance, Ending, Event, Refusal, RevisionRow, Store
from sagaz_lab.errors import StoreUnavailable, TriggersOwned, UnstorableValue
from sagaz_lab.model.keys import INDEXED_BYTES, NAME_BYTES
from sagaz_lab.model.run import RecordKind, RunStatus
from sagaz_lab.testing.store_intake import IntakeSuite
from sagaz_lab.testing.store_outbox import OutboxSuite
from sagaz_lab.testing.store_values import (
    AT,
    NOTHING,
    MakeStore,
    dead_letter,
    finished,
    frame,
    kept_event,
    key,
    loaded,
    member,
    new_run,
    record,
    take,
    waiting_event,
)  # fmt: skip
from sagaz_lab.testing.store_waiting import WaitingSuite

__all__ = ["MakeStore", "StoreSuite"]


class StoreSuite(IntakeSuite, WaitingSuite, OutboxSuite):
    """Tests that every store must pass."""

    shared = True

    @pytest.fixture
    def make_store(self) -> MakeStore:
        raise NotImplementedError("define a fixture `make_store`")

    @pytest.fixture
    async def store(self, make_store: MakeStore) -> AsyncIterator[Store]:
        store = make_store()
        await store.open("this notebook")
        yield store
        await store.close()

    @pytest.fixture
    async def other(self, make_store: MakeStore) -> AsyncIterator[Store]:
        """The same data, opened by another owner."""
        if not self.shared:
            pytest.skip("only one store object can have this data")
        other = make_store()
        await other.open("another notebook")
        yield other
        await other.close()

    # --- runs and their history ---

    async def test_an_accepted_run_is_there_with_its_event_and_its_first_actions(self, store: Store) -> None:
        assert await take(store, new_run("r1")) == NOTHING
        run = await loaded(store, "r1")
        assert (run.saga, run.revision, run.trigger, run.status) == ("orders", 1, "orders.on_order", RunStatus.RUNNING)
        assert (run.attempt, run.context, run.started_at) == (1, {"n": 1}, AT)
        assert run.event is not None
        assert (run.event.id, run.event.payload) == ("event-r1", {"n": 1})
        assert [(it.kind, it.action, it.at) for it in run.records] == [(RecordKind.ACTION_STARTED, "reserve", AT)]

    async def test_a_run_that_is_not_there_is_none(self, store: Store) -> None:
        assert await store.load("nowhere") is None
        assert not await store.adopt("nowhere")

    async def test_records_come_back_as_they_were_in_the_order_of_the_calls(self, store: Store) -> None:
        await take(store, new_run("r1", started=()))
        failed = record("r1", RecordKind.ACTION_FAILED, error="OSError: no\x00net", traceback="Traceback ...", trial=2)
        history = [finished("r1", str(n), value={"n": n}, changes={"seen": [n]}) for n in range(300)]
        await asyncio.gather(*(store.append([it]) for it in history), store.append([failed]))
        assert (await loaded(store, "r1")).records == [*history, failed]

    async def test_runs_and_records_come_back_whatever_they_lack(self, store: Store) -> None:
        facts = product((None, "orders.on_order"), (None, "claim"), (None, Event({"n": 1}, "e")))
        runs = [
            new_run(f"r{n}", trigger=trigger, claim=claim and f"{claim}-{n}", event=event)
            for n, (trigger, claim, event) in enumerate(facts)
        ]
        assert await take(store, *runs) == NOTHING
        for run in runs:
            stored = await loaded(store, run.run_id)
            assert (stored.trigger, stored.event, stored.context) == (run.trigger, run.event, run.context)
        parts = product((None, 7), (None, {"seen": 1}), (None, "OSError: down"), (None, "Traceback ..."))
        history = [
            record("r0", RecordKind.ACTION_FAILED, value=value, changes=changes, error=error, traceback=text)
            for value, changes, error, text in parts
        ]
        await store.append(history)
        assert (await loaded(store, "r0")).records[1:] == history

    async def test_actions_that_started_with_a_record_come_back_as_records_of_their_own(self, store: Store) -> None:
        await take(store, new_run("r1"))
        await store.append([finished("r1", value=7, at=AT + 2, then=("pack", "pay"))])
        await store.end("r1", Ending(RunStatus.HELD, None, [finished("r1", "pay", at=AT + 3)]), attempt=1, at=AT + 4)
        started = [record("r1", RecordKind.ACTION_STARTED, name, at=AT + 2) for name in ("pack", "pay")]
        assert (await loaded(store, "r1")).records[1:] == [
            finished("r1", value=7, at=AT + 2), *started, finished("r1", "pay", at=AT + 3),
        ]  # fmt: skip
        steps = [(row["action"], row["status"], row["started_at"]) for row in frame(store, "steps")]
        assert steps == [
            ("pay", "completed", AT + 2), ("pack", "running", AT + 2), ("reserve", "completed", AT),
        ]  # fmt: skip

    async def test_a_run_ends_with_its_last_records(self, store: Store) -> None:
        await take(store, new_run("r1"))
        await store.end("r1", Ending(RunStatus.COMPLETED, None, [finished("r1", value=7)]), attempt=1, at=AT + 5)
        run = await loaded(store, "r1")
        assert (run.status, run.records[-1].value) == (RunStatus.COMPLETED, 7)
        (row,) = frame(store, "runs")
        assert (row["status"], row["ended_at"], row["error"]) == ("completed", AT + 5, None)

    async def test_a_run_is_read_whole_without_waiting_also_once_it_has_ended(self, store: Store) -> None:
        await take(store, new_run("r1"))
        assert store.run("r1") == await store.load("r1")
        failed = record("r1", RecordKind.ACTION_FAILED, error="OSError: down", traceback="Traceback ...")
        await store.end("r1", Ending(RunStatus.COMPENSATED, OSError("down"), [failed]), attempt=1, at=AT + 5)
        await store.close()
        run = store.run("r1")
        assert run is not None
        assert (run.status, run.ended_at, run.error) == (RunStatus.COMPENSATED, AT + 5, "OSError: down")
        assert run.records[-1] == failed
        assert store.run("nowhere") is None

    async def test_a_run_that_waits_for_its_retry_says_when_and_begins_again(self, store: Store) -> None:
        await take(store, new_run("r1"))
        await store.end("r1", Ending(RunStatus.COMPENSATED, OSError("down")), attempt=1, at=AT + 5, retry_at=AT + 15)
        waiting = await loaded(store, "r1")
        assert (waiting.status, waiting.retry_at) == (RunStatus.WAITING, AT + 15)
        await store.begin("r1", revision=2, attempt=2, started=("reserve",), at=AT + 15, context={"n": 2})
        again = await loaded(store, "r1")
        assert (again.status, again.attempt, again.revision, again.retry_at) == (RunStatus.RUNNING, 2, 2, None)
        assert (again.context, [it.attempt for it in again.records]) == ({"n": 2}, [1, 2])

    async def test_a_run_id_is_taken_once(self, store: Store) -> None:
        await take(store, new_run("r1"))
        assert await take(store, new_run("r1"), new_run("r2")) == {"r1": Refusal("r1", RunStatus.RUNNING)}
        assert await store.load("r2") is not None

    async def test_a_record_of_no_run_is_refused_and_spoils_no_other(self, store: Store) -> None:
        await take(store, new_run("r1", started=()))

        async def append(run_id: str) -> None:
            await store.append([finished(run_id)])

        results = await asyncio.gather(*map(append, ("r1", "nowhere", "r1")), return_exceptions=True)
        assert [isinstance(result, Exception) for result in results] == [False, True, False]
        assert len((await loaded(store, "r1")).records) == 2

    async def test_a_value_that_cannot_be_stored_is_refused_and_spoils_no_other(self, store: Store) -> None:
        if not store.traits.survives:
            pytest.skip("it keeps every value")
        refused = await take(store, new_run("r1"), new_run("r2", context={"model": object()}))
        assert isinstance(refused["r2"].error, UnstorableValue)
        with pytest.raises(UnstorableValue, match="'model'"):
            await store.append([finished("r1", value=1), finished("r1", value={"model": object()})])
        assert len((await loaded(store, "r1")).records) == 1

    # --- after a stop ---

    async def test_what_a_closed_owner_left_is_taken_over_once_oldest_first(self, store: Store) -> None:
        await take(store, *(new_run(f"r{n}") for n in range(4)))
        await store.append([finished("r1", value=5)])
        await store.end("r0", Ending(RunStatus.COMPLETED), attempt=1, at=AT)
        await store.end("r3", Ending(RunStatus.NEEDS_CODE), attempt=1, at=AT)
        await store.close()
        await store.open("the next notebook")
        left = await store.interrupted()
        assert [(run.run_id, run.status) for run in left] == [
            ("r1", RunStatus.RUNNING), ("r2", RunStatus.RUNNING), ("r3", RunStatus.NEEDS_CODE),
        ]  # fmt: skip
        assert left[0].records[-1].value == 5
        assert await store.interrupted() == []

    async def test_a_run_that_was_taken_over_goes_on(self, store: Store) -> None:
        await take(store, new_run("r1"))
        await store.close()
        await store.open("the next notebook")
        await store.interrupted()
        await store.append([finished("r1")])
        await store.end("r1", Ending(RunStatus.COMPLETED), attempt=1, at=AT)
        assert [it.kind for it in (await loaded(store, "r1")).records] == ["action_started", "action_finished"]

    async def test_what_is_not_chosen_stays_for_a_later_call_or_to_be_adopted(self, store: Store) -> None:
        await take(store, *(new_run(f"r{n}", started=()) for n in range(3)))
        await store.close()
        await store.open("the next notebook")
        asked: list[tuple[str, str]] = []

        def the_last(runs: Sequence[tuple[str, str]]) -> list[str]:
            asked[:] = runs
            return [runs[-1][0]]

        assert [run.run_id for run in await store.interrupted(the_last)] == ["r2"]
        assert asked == [("r0", "orders"), ("r1", "orders"), ("r2", "orders")]
        assert await store.interrupted(lambda _: ()) == []
        assert await store.adopt("r0")
        assert [run.run_id for run in await store.interrupted()] == ["r1"]
        assert await store.interrupted() == []

    async def test_what_nobody_chose_is_left_to_the_next_owner(self, store: Store) -> None:
        await take(store, new_run("r1"), new_run("r2"))
        for name in ("the next notebook", "the one after"):
            await store.close()
            await store.open(name)
            assert await store.interrupted(lambda _: ()) == []
        assert [run.run_id for run in await store.interrupted()] == ["r1", "r2"]

    async def test_a_held_run_can_be_adopted(self, store: Store) -> None:
        await take(store, new_run("r1"))
        await store.end("r1", Ending(RunStatus.HELD, OSError("down")), attempt=1, at=AT)
        assert await store.adopt("r1")
        assert (await loaded(store, "r1")).status == RunStatus.RUNNING

    async def test_closing_twice_is_closing_once(self, store: Store) -> None:
        await store.close()
        await store.close()

    async def test_a_closed_store_that_survives_takes_nothing_but_can_be_read(self, store: Store) -> None:
        if not store.traits.survives:
            pytest.skip("it is never closed to its own process")
        await take(store, new_run("r1"))
        await store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await take(store, new_run("r2"))
        assert [row["run_id"] for row in frame(store, "runs")] == ["r1"]

    # --- two owners ---

    async def test_the_runs_of_a_live_owner_are_left_to_it(self, store: Store, other: Store) -> None:
        await take(store, new_run("r1"))
        assert await other.interrupted() == []
        assert not await other.adopt("r1")
        assert (await loaded(other, "r1")).status == RunStatus.RUNNING

    async def test_another_owner_can_adopt_what_has_ended(self, store: Store, other: Store) -> None:
        await take(store, new_run("r1"))
        await store.append([finished("r1")])
        await store.end("r1", Ending(RunStatus.HELD), attempt=1, at=AT)
        assert await other.adopt("r1")
        await other.append([finished("r1", "pay")])
        assert [it.action for it in (await loaded(other, "r1")).records] == ["reserve", "reserve", "pay"]

    async def test_a_claim_holds_for_all_owners(self, store: Store, other: Store) -> None:
        await take(store, new_run("r1", claim="order-1"))
        assert await take(other, new_run("r2", claim="order-1")) == {"r2": Refusal("r1", RunStatus.RUNNING)}

    async def test_triggers_are_run_by_one_live_owner(self, store: Store, other: Store) -> None:
        await store.own_triggers(["orders.on_order", "orders.on_return"])
        with pytest.raises(TriggersOwned, match="this notebook"):
            await other.own_triggers(["orders.on_order"])
        await store.own_triggers(["orders.on_return"])
        await other.own_triggers(["orders.on_order"])
        await store.close()
        await other.own_triggers(["orders.on_order", "orders.on_return"])

    async def test_a_store_knows_how_long_nobody_has_run_a_trigger(self, store: Store) -> None:
        assert await store.own_triggers(["orders.on_order"]) is None
        await store.close()
        await asyncio.sleep(0.3)
        await store.open("the next notebook")
        assert await store.own_triggers(["orders.other"]) is None
        away_s = await store.own_triggers(["orders.on_order", "orders.other"])
        assert away_s is not None
        assert away_s < 0.2  # as one of them is run already
        await store.close()
        await asyncio.sleep(0.3)
        await store.open("the one after")
        away_s = await store.own_triggers(["orders.on_order"])
        assert away_s is not None
        assert 0.3 <= away_s < 30

    # --- dead letters, names, frames ---

    async def test_a_run_that_failed_for_good_leaves_its_letter_with_its_end(self, store: Store) -> None:
        await take(store, new_run("r1"))
        letter = dead_letter("d1", run_id="r1", attempts=4)
        await store.end("r1", Ending(RunStatus.COMPENSATED, OSError("down")), attempt=4, at=AT, dead=letter)
        assert [(it.run_id, it.attempts) for it in await store.letters(["d1"])] == [("r1", 4)]
        assert [row["outcome"] for row in frame(store, "outcomes")] == ["started"]

    async def test_positions_are_kept_by_name(self, store: Store) -> None:
        positions = store.positions()
        assert await positions.get("cron:daily") is None
        await positions.put("cron:daily", "2026-01-31")
        await positions.put("cron:daily", "2026-02-01")
        await store.close()
        await store.open("the next notebook")
        assert await store.positions().get("cron:daily") == "2026-02-01"

    async def test_revisions_are_kept_oldest_first_each_number_once(self, store: Store) -> None:
        rows = [
            RevisionRow("orders", number, f"digest-{number}", "class Orders: ...", AT, "a, process 7")
            for number in (2, 1, 3)
        ]
        others = [rows[0]._replace(made_by="b, process 8"), rows[0]._replace(digest="other", made_by="b, process 8")]
        saved = [await store.save_revision(row) for row in [*rows, *others]]
        assert saved == [True, True, True, True, False]
        assert [(row.number, row.digest) for row in store.revisions("orders")] == [
            (1, "digest-1"), (2, "digest-2"), (3, "digest-3"),
        ]  # fmt: skip
        assert {row.made_by for row in store.revisions("orders")} == {"a, process 7"}
        assert [row.number for row in store.revisions("orders", 2)] == [2, 3]
        assert store.revisions("nothing") == store.revisions("nothing", 1) == store.revisions("orders", 0) == []

    async def test_the_frames_are_newest_first_and_limited(self, store: Store) -> None:
        await take(store, *(new_run(f"r{n}", at=AT + n) for n in range(5)))
        assert [row["run_id"] for row in frame(store, "runs", 2)] == ["r4", "r3"]
        assert [row["event_id"] for row in frame(store, "outcomes", 2)] == ["event-r4", "event-r3"]
        assert [(row["event_id"], row["payload"]) for row in frame(store, "events", 1)] == [("event-r4", {"n": 1})]
        assert len(frame(store, "steps")) == 5

    async def test_the_steps_tell_of_each_trial(self, store: Store) -> None:
        await take(store, new_run("r1"))
        await store.append([
            record("r1", RecordKind.ACTION_FAILED, at=AT + 1, error="OSError: down"),
            record("r1", RecordKind.ACTION_STARTED, at=AT + 2, trial=2),
            finished("r1", at=AT + 5, trial=2),
            record("r1", RecordKind.COMPENSATION_STARTED, at=AT + 6),
        ])  # fmt: skip
        steps = [
            (row["kind"], row["status"], row["trial"], row["duration_s"], row["error"]) for row in frame(store, "steps")
        ]
        assert steps == [
            ("compensation", "running", 1, None, None),
            ("action", "completed", 2, 3.0, None),
            ("action", "failed", 1, 1.0, "OSError: down"),
        ]

    async def test_names_keys_and_reasons_may_be_as_long_as_the_lab_lets_them(self, store: Store) -> None:
        texts = Random(1)

        def text(size: int, start: str = "") -> str:  # of letters that take four bytes each, so that nothing is saved
            return start + "".join(chr(texts.randrange(0x20000, 0x2A000)) for _ in range((size - len(start)) // 4))

        trigger, run_id, claim = text(NAME_BYTES), text(NAME_BYTES), text(INDEXED_BYTES)
        declared, cooldown = key(f"0:{text(INDEXED_BYTES)}"), (text(INDEXED_BYTES), AT + 60)
        run = new_run(run_id, trigger=trigger, saga=trigger, claim=claim, declared=declared, cooldown=cooldown,
                      members=[member(text(INDEXED_BYTES))])  # fmt: skip
        counts = {(trigger, "filtered", text(INDEXED_BYTES)): 2, ("orders.on_order", "filtered", "too low"): 1}
        waiting = waiting_event("h-1", trigger=trigger, key=text(INDEXED_BYTES), claim=text(INDEXED_BYTES))
        batch = Acceptance(runs=[run], filtered=counts, waiting=[waiting])
        assert await store.accept(batch) == NOTHING
        assert list(await store.seen(trigger, [claim, declared])) == [claim, declared]
        assert list(await store.cooling(trigger, at=AT)) == [cooldown[0]]
        assert {row["reason"] for row in frame(store, "counts")} == {reason for _, _, reason in counts}
        assert await store.forget(trigger, cooldown[0]) == 1
        await store.positions().put(text(INDEXED_BYTES), "1")
        await store.own_triggers([trigger])

    async def test_the_outcomes_tell_what_became_of_each_event(self, store: Store) -> None:
        waiting = new_run("r2", status=RunStatus.WAITING, started=(), at=AT + 2)
        counts = {("orders.on_order", "filtered", "score too low"): 2}
        await store.accept(Acceptance(runs=[new_run("r1"), waiting], dead=[dead_letter("d1")], kept=[kept_event("low")],
                                      filtered=counts))  # fmt: skip
        await store.accept(Acceptance(filtered=counts))
        outcomes = {row["event_id"]: (row["outcome"], row["reason"]) for row in frame(store, "outcomes")}
        assert outcomes == {
            "event-r1": ("started", ""),
            "event-r2": ("waiting", ""),
            "event-d1": ("dead", dead_letter("d1").error),
            "low": ("filtered", "score too low"),
        }
        assert [row["count"] for row in frame(store, "counts")] == [4]

    async def test_a_heartbeat_leaves_what_is_young(self, store: Store) -> None:
        await take(store, new_run("r1", at=time.time()))
        await store.end("r1", Ending(RunStatus.COMPLETED), attempt=1, at=time.time())
        await store.heartbeat()
        assert await store.load("r1") is not None
