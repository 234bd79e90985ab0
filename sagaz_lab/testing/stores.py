"""The promises of the `Store` protocol as tests, for every store and for those who write one.

Subclass `StoreSuite` in a test module and define the fixture `make_store`: each call gives a store, not opened yet,
over the same data. Where only one store object can have the data, say `shared = False`. Needs pytest and
pytest-asyncio with asyncio_mode=auto.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from sagaz_lab.abc import Acceptance, DeadLetter, Ending, Event, NewRun, Refusal, RevisionRow, Store, StoredRun
from sagaz_lab.errors import StoreUnavailable, TriggersOwned, UnstorableValue
from sagaz_lab.model.run import Record, RecordKind, RunStatus

MakeStore = Callable[[], Store]
AT = 1_700_000_000.0
NOTHING: Mapping[str, Refusal] = {}


def new_run(run_id: str, **fields: Any) -> NewRun:
    """A run of the saga `orders` that starts now with its action `reserve`."""
    event = Event({"n": 1}, id=f"event-{run_id}", source="memory")
    values = {"saga": "orders", "revision": 1, "trigger": "orders.on_order", "event": event, "context": {"n": 1},
              "at": AT, "started": ("reserve",)}  # fmt: skip
    return NewRun(run_id=run_id, **{**values, **fields})


def record(run_id: str, kind: RecordKind, action: str = "reserve", **fields: Any) -> Record:
    return Record(run_id, **{"attempt": 1, "kind": kind, "action": action, "trial": 1, "at": AT + 1, **fields})


def finished(run_id: str, action: str = "reserve", **fields: Any) -> Record:
    return record(run_id, RecordKind.ACTION_FINISHED, action, **fields)


def dead_letter(id: str, **fields: Any) -> DeadLetter:
    values = {"event": Event({"n": "x"}, id=f"event-{id}"), "trigger": "orders.on_order", "saga": "orders",
              "cause": "ValueError", "error": "ValueError: n", "traceback": "Traceback ...", "attempts": 1,
              "revision": 1, "at": AT}  # fmt: skip
    return DeadLetter(id=id, **{**values, **fields})


async def take(store: Store, *runs: NewRun) -> Mapping[str, Refusal]:
    return await store.accept(Acceptance(runs=list(runs)))


async def loaded(store: Store, run_id: str) -> StoredRun:
    run = await store.load(run_id)
    assert run is not None
    return run


def frame(store: Store, name: str, limit: int | None = None) -> list[dict[str, Any]]:
    columns, rows = store.rows(name, limit)
    return [dict(zip(columns, row, strict=True)) for row in rows]


class StoreSuite:
    """What holds for every store."""

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

    async def test_a_run_ends_with_its_last_records(self, store: Store) -> None:
        await take(store, new_run("r1"))
        await store.end("r1", Ending(RunStatus.COMPLETED, None, [finished("r1", value=7)]), attempt=1, at=AT + 5)
        run = await loaded(store, "r1")
        assert (run.status, run.records[-1].value) == (RunStatus.COMPLETED, 7)
        (row,) = frame(store, "runs")
        assert (row["status"], row["ended_at"], row["error"]) == ("completed", AT + 5, None)

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
        results = await asyncio.gather(
            *(store.append([finished(run_id)]) for run_id in ("r1", "nowhere", "r1")), return_exceptions=True
        )
        assert [isinstance(result, Exception) for result in results] == [False, True, False]
        assert len((await loaded(store, "r1")).records) == 2

    async def test_a_value_that_cannot_be_stored_is_refused_and_spoils_no_other(self, store: Store) -> None:
        if not store.durable:
            pytest.skip("it keeps every value")
        refused = await take(store, new_run("r1"), new_run("r2", context={"model": object()}))
        assert isinstance(refused["r2"].error, UnstorableValue)
        with pytest.raises(UnstorableValue, match="'model'"):
            await store.append([finished("r1", value=1), finished("r1", value={"model": object()})])
        assert len((await loaded(store, "r1")).records) == 1

    # --- claims ---

    async def test_of_two_runs_with_one_claim_the_first_is_taken(self, store: Store) -> None:
        refused = await take(store, new_run("r1", claim="order-1"), new_run("r2", claim="order-1"))
        assert refused == {"r2": Refusal("r1", RunStatus.RUNNING)}
        assert await store.load("r2") is None

    async def test_of_many_who_claim_at_once_one_wins(self, store: Store) -> None:
        answers = await asyncio.gather(*(take(store, new_run(f"r{n}", claim="order-1")) for n in range(50)))
        assert sorted(len(answer) for answer in answers) == [0] + [1] * 49

    async def test_a_completed_run_keeps_its_claim(self, store: Store) -> None:
        await take(store, new_run("r1", claim="order-1"))
        await store.end("r1", Ending(RunStatus.COMPLETED), attempt=1, at=AT + 1)
        assert await take(store, new_run("r2", claim="order-1")) == {"r2": Refusal("r1", RunStatus.COMPLETED)}

    @pytest.mark.parametrize("end", [RunStatus.COMPENSATED, RunStatus.CANCELLED, RunStatus.COMPENSATION_FAILED])
    async def test_a_run_that_ended_badly_frees_its_claim(self, store: Store, end: RunStatus) -> None:
        await take(store, new_run("r1", claim="order-1"))
        await store.end("r1", Ending(end), attempt=1, at=AT + 1)
        assert await store.seen([("orders.on_order", "order-1")]) == {}
        assert await take(store, new_run("r2", claim="order-1")) == NOTHING
        assert await take(store, new_run("r3", claim="order-1")) == {"r3": Refusal("r2", RunStatus.RUNNING)}

    async def test_a_claim_past_its_time_is_free(self, store: Store) -> None:
        key = ("orders.on_order", "order-1")
        await take(store, new_run("r1", claim="order-1", claim_until=AT + 60))
        assert await store.seen([key], at=AT + 59) == {key: Refusal("r1", RunStatus.RUNNING)}
        assert await store.seen([key], at=AT + 60) == {}
        assert await take(store, new_run("r2", claim="order-1", at=AT + 60)) == NOTHING

    async def test_claims_are_the_triggers_own_and_can_be_any_text(self, store: Store) -> None:
        claims = ["", "'; DROP TABLE runs", "nul\x00", "half \ud800", "x" * 10_000]
        runs = [new_run(f"r{n}", claim=claim) for n, claim in enumerate(claims)]
        assert await take(store, *runs) == NOTHING
        assert len(await store.seen([("orders.on_order", claim) for claim in claims])) == len(claims)
        assert await store.seen([("orders.other", claim) for claim in claims]) == {}

    async def test_a_forgotten_claim_can_be_taken_again(self, store: Store) -> None:
        await take(store, *(new_run(f"r{n}", claim=f"order-{n}") for n in range(3)))
        assert await store.forget("orders.on_order", "order-0") == 1
        assert await store.forget("orders.on_order") == 2
        assert await store.forget("orders.on_order", "order-0") == 0
        assert await take(store, new_run("again", claim="order-0")) == NOTHING

    async def test_a_withdrawn_run_leaves_nothing_but_one_that_has_begun_stays(self, store: Store) -> None:
        waiting = {"status": RunStatus.WAITING, "started": ()}
        await take(store, new_run("r1", claim="a", **waiting), new_run("r2", claim="b", **waiting))
        await store.begin("r2", revision=1, attempt=1, started=(), at=AT)
        await store.withdraw("r1")
        await store.withdraw("r2")
        assert await store.load("r1") is None
        assert (await loaded(store, "r2")).attempt == 1
        assert list(await store.seen([("orders.on_order", "a"), ("orders.on_order", "b")])) == [
            ("orders.on_order", "b")
        ]

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

    async def test_a_held_run_can_be_adopted(self, store: Store) -> None:
        await take(store, new_run("r1"))
        await store.end("r1", Ending(RunStatus.HELD, OSError("down")), attempt=1, at=AT)
        assert await store.adopt("r1")
        assert (await loaded(store, "r1")).status == RunStatus.RUNNING

    async def test_closing_twice_is_closing_once(self, store: Store) -> None:
        await store.close()
        await store.close()

    async def test_a_closed_durable_store_takes_nothing_but_can_be_read(self, store: Store) -> None:
        if not store.durable:
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

    # --- letters, names, frames ---

    async def test_dead_letters_are_open_until_they_are_settled(self, store: Store) -> None:
        await store.accept(Acceptance(dead=[dead_letter("d1"), dead_letter("d2")]))
        letters = await store.letters(["d2", "nowhere", "d1"])
        assert [(it.id, it.event.payload, it.cause) for it in letters] == [
            ("d1", {"n": "x"}, "ValueError"), ("d2", {"n": "x"}, "ValueError"),
        ]  # fmt: skip
        assert await store.settle_letters(["d1", "nowhere"], "redriven", "fixed") == 1
        assert await store.settle_letters(["d1"], "discarded", "twice") == 0
        assert [it.id for it in await store.letters(["d1", "d2"])] == ["d2"]
        assert {row["id"]: row["state"] for row in frame(store, "dead_letters")} == {"d1": "redriven", "d2": "open"}

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
        rows = [RevisionRow("orders", number, f"digest-{number}", "class Orders: ...", AT) for number in (2, 1, 3)]
        for row in [*rows, rows[0]._replace(digest="other")]:
            await store.save_revision(row)
        assert [(row.number, row.digest) for row in store.revisions("orders")] == [
            (1, "digest-1"), (2, "digest-2"), (3, "digest-3"),
        ]  # fmt: skip
        assert store.revisions("nothing") == []

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

    async def test_the_outcomes_tell_what_became_of_each_event(self, store: Store) -> None:
        filtered = (Event({"n": 3}, id="low"), "orders.on_order", "filtered", "score too low")
        waiting = new_run("r2", status=RunStatus.WAITING, started=(), at=AT + 2)
        counts = {("orders.on_order", "filtered", "score too low"): 2}
        await store.accept(Acceptance(runs=[new_run("r1"), waiting], dead=[dead_letter("d1")], kept=[filtered],
                                      filtered=counts))  # fmt: skip
        await store.accept(Acceptance(filtered=counts))
        outcomes = {row["event_id"]: (row["outcome"], row["reason"]) for row in frame(store, "outcomes")}
        assert outcomes == {
            "event-r1": ("started", ""),
            "event-r2": ("held", ""),
            "event-d1": ("dead", dead_letter("d1").error),
            "low": ("filtered", "score too low"),
        }
        assert [row["count"] for row in frame(store, "counts")] == [4]

    async def test_a_heartbeat_leaves_what_is_young(self, store: Store) -> None:
        await take(store, new_run("r1", at=time.time()))
        await store.end("r1", Ending(RunStatus.COMPLETED), attempt=1, at=time.time())
        await store.heartbeat()
        assert await store.load("r1") is not None
