"""Tests of a store's publications, dead letters and kept events."""

from __future__ import annotations

import pytest

from sagaz_lab.abc import Acceptance, Ending, Event, Store
from sagaz_lab.errors import StoreError
from sagaz_lab.model.run import RunStatus
from sagaz_lab.testing.store_values import (
    AT,
    TRIGGER,
    dead_letter,
    end,
    finished,
    frame,
    kept_event,
    loaded,
    member,
    new_run,
    publication,
    take,
)  # fmt: skip


async def to_publish(store: Store, limit: int = 100) -> list[str]:
    return [it.id for _, it in await store.publications(limit)]


class OutboxSuite:
    """Part of the `StoreSuite`."""

    # --- publications ---

    async def test_what_is_to_be_published_is_kept_with_what_it_came_with(self, store: Store) -> None:
        await store.accept(Acceptance(runs=[new_run("r1")], publications=[publication("p1")]))
        await store.append([finished("r1", publications=[publication("p2"), publication("p3")])])
        last = finished("r1", "pay", publications=[publication("p4")])
        await store.end("r1", Ending(RunStatus.COMPLETED, None, [last], [publication("p5")]), attempt=1, at=AT)
        found = await store.publications(100)
        assert [it for _, it in found] == [publication(f"p{n}") for n in range(1, 6)]
        assert [number for number, _ in found] == sorted({number for number, _ in found})
        assert [record.publications for record in (await loaded(store, "r1")).records] == [(), (), ()]

    async def test_what_was_published_is_gone_and_the_rest_comes_in_order(self, store: Store) -> None:
        await store.accept(Acceptance(publications=[publication(f"p{n}") for n in range(5)]))
        first = await store.publications(2)
        assert [it.id for _, it in first] == ["p0", "p1"]
        await store.published([number for number, _ in first])
        await store.published([number for number, _ in first])
        assert await to_publish(store) == ["p2", "p3", "p4"]
        assert [row["id"] for row in frame(store, "publications")] == ["p4", "p3", "p2"]
        assert frame(store, "publications", 1) == [{"id": "p4", "topic": "shipped", "trigger": TRIGGER, "run_id": "r1"}]

    async def test_an_id_is_published_once_unless_it_comes_again_after_that(self, store: Store) -> None:
        await take(store, new_run("r1"))
        again = finished("r1", publications=[publication("p1")])
        await store.append([again])
        await store.append([again])
        ((number, _),) = await store.publications(100)
        await store.published([number])
        await store.append([again])
        ((later, _),) = await store.publications(100)
        assert later > number
        assert len((await loaded(store, "r1")).records) == 4

    async def test_a_refused_publication_is_parked_with_what_its_run_publishes_later(self, store: Store) -> None:
        await store.accept(Acceptance(publications=[publication(f"p{n}") for n in range(3)]))
        await store.accept(Acceptance(publications=[publication("q1", run_id="r2")]))
        rows = await store.publications(100)
        await store.park_refused([(rows[0][0], dead_letter("d1", event=Event({"n": 1}, id="p0"), run_id="r1"))])
        assert await store.parked_runs() == {"r1"}
        assert await store.park_behind([(number, it.run_id) for number, it in rows]) == {"r1"}
        assert await to_publish(store) == ["q1"]
        assert [it.id for it in await store.letters(["d1"])] == ["d1"]
        assert [row["id"] for row in frame(store, "publications")] == ["q1", "p2", "p1", "p0"]

    async def test_a_redriven_publication_is_to_be_published_before_what_is_behind_it(self, store: Store) -> None:
        await store.accept(Acceptance(publications=[publication(f"p{n}") for n in range(3)]))
        rows = await store.publications(100)
        await store.park_refused([(rows[0][0], dead_letter("d1", event=Event({"n": 1}, id="p0"), run_id="r1"))])
        await store.park_behind([(number, it.run_id) for number, it in rows])
        await store.accept(Acceptance(dead=[dead_letter("d2")]))
        assert set(await store.settle_refused(["d1", "d2"], "redriven", "", payloads={"d1": b"2"})) == {"d1"}
        assert (await store.publications(1))[0][1] == publication("p0")._replace(payload=b"2")
        assert await to_publish(store) == ["p0", "p1", "p2"]
        assert await store.park_behind([(number, it.run_id) for number, it in rows]) == set()
        assert list(await store.settle_refused(["d1"], "discarded", "twice")) == []
        assert [row["id"] for row in frame(store, "dead_letters")] == ["d2"]

    async def test_a_discarded_publication_is_gone_and_frees_what_is_behind_it(self, store: Store) -> None:
        await store.accept(Acceptance(publications=[publication("p0"), publication("p1"), publication("lone", "")]))
        rows = await store.publications(100)
        letters = [dead_letter(f"d{n}", event=Event(1, id=it.id), run_id=it.run_id) for n, (_, it) in enumerate(rows)]
        await store.park_refused([(rows[0][0], letters[0]), (rows[2][0], letters[2])])
        await store.park_behind([(rows[1][0], "r1")])
        assert await to_publish(store) == []
        assert set(await store.settle_refused(["d0", "d1", "d2"], "discarded", "misspelt")) == {"d0", "d2"}
        assert await to_publish(store) == ["p1"]
        assert not await store.parked_runs()

    async def test_a_record_that_is_refused_publishes_nothing(self, store: Store) -> None:
        with pytest.raises(StoreError):
            await store.append([finished("nowhere", publications=[publication("p1")])])
        assert await to_publish(store) == []

    async def test_what_a_closed_owner_left_is_published_by_the_next(self, store: Store) -> None:
        await store.accept(Acceptance(runs=[new_run("r1")], publications=[publication("p1"), publication("p2")]))
        await end(store, "r1", RunStatus.COMPLETED)
        await store.close()
        await store.open("the next notebook")
        await store.interrupted()
        await store.accept(Acceptance(publications=[publication("p3")]))
        assert await to_publish(store) == ["p1", "p2", "p3"]

    async def test_a_live_owner_publishes_its_own(self, store: Store, other: Store) -> None:
        await store.accept(Acceptance(publications=[publication("p1")]))
        await other.accept(Acceptance(publications=[publication("p2")]))
        await other.interrupted()
        assert (await to_publish(store), await to_publish(other)) == (["p1"], ["p2"])

    async def test_who_adopts_a_run_publishes_what_it_still_has(self, store: Store, other: Store) -> None:
        await store.accept(Acceptance(publications=[publication("p1", "r2")]))
        await take(store, new_run("r1"))
        await store.append([finished("r1", publications=[publication("p2")])])
        await end(store, "r1", RunStatus.HELD)
        assert await other.adopt("r1")
        await other.append([finished("r1", "pay", publications=[publication("p3")])])
        assert (await to_publish(store), await to_publish(other)) == (["p1"], ["p2", "p3"])

    # --- dead letters ---

    async def test_dead_letters_are_open_until_they_are_settled(self, store: Store) -> None:
        await store.accept(Acceptance(dead=[dead_letter("d1"), dead_letter("d2", redriven=2)]))
        letters = await store.letters(["d2", "nowhere", "d1"])
        assert [(it.id, it.event.payload, it.cause, it.redriven) for it in letters] == [
            ("d1", {"n": "x"}, "ValueError", 0), ("d2", {"n": "x"}, "ValueError", 2),
        ]  # fmt: skip
        assert await store.settle_letters(["d1", "nowhere"], "redriven", "fixed") == 1
        assert await store.settle_letters(["d1"], "discarded", "twice") == 0
        assert [it.id for it in await store.letters(["d1", "d2"])] == ["d2"]
        (row,) = frame(store, "dead_letters")
        assert (row["id"], row["state"], row["redriven"]) == ("d2", "open", 2)
        assert list(row)[-1] == "redriven"

    async def test_open_letters_are_shown_a_page_at_a_time(self, store: Store) -> None:
        await store.accept(Acceptance(dead=[dead_letter(f"d{n}") for n in range(7)]))
        await store.settle_letters(["d4", "d2"], "discarded", "old")

        def page(before: str | None) -> list[str]:
            return [row[0] for row in store.rows("dead_letters", 2, before=before)[1]]

        assert [page(None), page("d5"), page("d1"), page("d4"), page("nowhere")] == [
            ["d6", "d5"], ["d3", "d1"], ["d0"], ["d3", "d1"], [],
        ]  # fmt: skip

    async def test_open_letters_are_counted_by_cause(self, store: Store) -> None:
        causes = ["late", "late", "down", "late", "late"]
        dead = [dead_letter(f"d{n}", cause=cause, error=f"{cause} {n}", at=AT + n) for n, cause in enumerate(causes)]
        await store.accept(Acceptance(dead=dead))
        await store.settle_letters(["d0"], "discarded", "old")
        assert frame(store, "causes") == [
            {"cause": "late", "count": 3, "first_at": AT + 1, "last_at": AT + 4, "error": "late 4"},
            {"cause": "down", "count": 1, "first_at": AT + 2, "last_at": AT + 2, "error": "down 2"},
        ]
        assert len(frame(store, "causes", 1)) == 1

    async def test_letters_are_read_on_from_a_number_open_or_not(self, store: Store) -> None:
        await store.accept(Acceptance(dead=[dead_letter(f"d{n}") for n in range(5)]))
        await store.settle_letters(["d1"], "redriven", "fixed")
        first = await store.letters_after(0, 2)
        rest = await store.letters_after(first[-1][0], 100)
        assert [letter.id for _, letter in [*first, *rest]] == ["d0", "d1", "d2", "d3", "d4"]
        assert await store.letters_after(rest[-1][0], 100) == []

    # --- kept events ---

    async def test_the_members_of_a_run_have_their_outcomes_too(self, store: Store) -> None:
        run = new_run("r1", members=[member("joined")])
        kept = [kept_event(id, "started", "r1") for id in ("event-r1", "event-joined")]
        await store.accept(Acceptance(runs=[run], kept=[*kept, kept_event("low")]))
        outcomes = {(row["event_id"], row["outcome"], row["run_id"]) for row in frame(store, "outcomes")}
        assert outcomes == {
            ("event-r1", "started", "r1"), ("event-joined", "started", "r1"), ("low", "filtered", None),
        }  # fmt: skip
        assert len(frame(store, "outcomes")) == 3
        await store.accept(Acceptance(kept=[kept_event("event-r2", "started", "refused"), kept_event("d", "dead")]))
        assert len(frame(store, "outcomes")) == 3
        assert {row["event_id"] for row in frame(store, "events")} >= {"event-r1", "event-joined", "low"}

    async def test_a_kept_event_goes_at_its_time(self, store: Store) -> None:
        if not store.traits.survives:
            pytest.skip("it limits kept events by number, not by age")
        await store.accept(Acceptance(kept=[kept_event("old", until=AT), kept_event("young")]))
        await store.heartbeat()
        assert [row["event_id"] for row in frame(store, "events")] == ["young"]
