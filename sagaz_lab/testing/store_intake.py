"""Tests of a store's intake: claims, cooldowns and waiting events."""

from __future__ import annotations

import asyncio

import pytest

from sagaz_lab.abc import Acceptance, Ending, Event, Redriven, Refusal, Spent, Store
from sagaz_lab.errors import UnstorableValue
from sagaz_lab.model.run import RunStatus
from sagaz_lab.testing.store_values import (
    AT,
    ENDED,
    NOTHING,
    TRIGGER,
    dead_letter,
    end,
    frame,
    key,
    loaded,
    member,
    new_run,
    publication,
    take,
    wait,
    waiting_event,
)  # fmt: skip


class IntakeSuite:
    """Part of the `StoreSuite`."""

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

    @pytest.mark.parametrize("status", ENDED)
    async def test_an_id_stays_claimed_however_its_run_ended(self, store: Store, status: RunStatus) -> None:
        await take(store, new_run("r1", claim="e1", members=[member("e2")], declared_ends=True))
        await end(store, "r1", status)
        mine = Refusal("r1", status)
        assert await store.seen(TRIGGER, ["e1", "e2"], at=AT + 2) == {"e1": mine, "e2": mine}
        assert await take(store, new_run("r2", claim="e1"), new_run("r3", claim="e2")) == {"r2": mine, "r3": mine}

    @pytest.mark.parametrize("status", [RunStatus.COMPENSATED, RunStatus.CANCELLED])
    async def test_a_declared_key_is_free_again_when_its_run_was_undone(self, store: Store, status: RunStatus) -> None:
        declared = key("order-1")
        await take(store, new_run("r1", claim="e1", declared=declared))
        assert await take(store, new_run("r2", claim="e2", declared=declared)) == {
            "r2": Refusal("r1", RunStatus.RUNNING)
        }
        await end(store, "r1", status)
        assert await store.seen(TRIGGER, [declared]) == {}
        assert await take(store, new_run("r3", claim="e1", declared=declared)) == {"r3": Refusal("r1", status)}
        assert await take(store, new_run("r4", claim="e4", declared=declared)) == NOTHING
        assert await take(store, new_run("r5", declared=declared)) == {"r5": Refusal("r4", RunStatus.RUNNING)}

    @pytest.mark.parametrize(
        "status",
        [RunStatus.COMPLETED, RunStatus.HELD, RunStatus.PARTIALLY_COMMITTED, RunStatus.COMPENSATION_FAILED,
         RunStatus.NEEDS_CODE],
    )  # fmt: skip
    async def test_a_declared_key_is_kept_by_a_run_that_stands(self, store: Store, status: RunStatus) -> None:
        await take(store, new_run("r1", declared=key("order-1"), members=[member(None, key("order-2"))]))
        await end(store, "r1", status)
        mine = Refusal("r1", status)
        assert await store.seen(TRIGGER, [key("order-1"), key("order-2")]) == {
            key("order-1"): mine,
            key("order-2"): mine,
        }

    async def test_an_id_and_a_declared_key_of_the_same_text_are_two(self, store: Store) -> None:
        assert (
            await take(store, new_run("r1", claim="a", declared=key("b")), new_run("r2", claim="b", declared=key("a")))
            == {}
        )
        await end(store, "r1", RunStatus.COMPENSATED)
        assert sorted(await store.seen(TRIGGER, ["a", key("a"), "b", key("b")])) == sorted(["a", key("a"), "b"])
        assert await store.forget(TRIGGER, "a") == 2
        assert sorted(await store.seen(TRIGGER, ["a", key("a"), "b", key("b")])) == ["b"]

    async def test_each_of_two_claims_has_a_time_of_its_own(self, store: Store) -> None:
        run = new_run("r1", claim="e1", claim_until=AT + 60, declared=key("k"), declared_until=AT + 5)
        await take(store, run)
        assert list(await store.seen(TRIGGER, ["e1", key("k")], at=AT + 4)) == ["e1", key("k")]
        assert list(await store.seen(TRIGGER, ["e1", key("k")], at=AT + 5)) == ["e1"]
        assert await store.seen(TRIGGER, ["e1", key("k")], at=AT + 60) == {}

    async def test_a_claim_past_its_time_is_free(self, store: Store) -> None:
        await take(store, new_run("r1", claim="order-1", claim_until=AT + 60))
        assert await store.seen(TRIGGER, ["order-1"], at=AT + 59) == {"order-1": Refusal("r1", RunStatus.RUNNING)}
        assert await store.seen(TRIGGER, ["order-1"], at=AT + 60) == {}
        assert await take(store, new_run("r2", claim="order-1", at=AT + 60)) == NOTHING

    async def test_claims_are_the_triggers_own_and_can_be_any_text(self, store: Store) -> None:
        claims = ["", "'; DROP TABLE runs", "nul\x00", "half \ud800", "x" * 10_000]
        runs = [new_run(f"r{n}", claim=claim) for n, claim in enumerate(claims)]
        assert await take(store, *runs) == NOTHING
        assert list(await store.seen(TRIGGER, claims)) == claims
        assert await store.seen("orders.other", claims) == {}

    async def test_a_forgotten_claim_can_be_taken_again(self, store: Store) -> None:
        await take(store, *(new_run(f"r{n}", claim=f"order-{n}") for n in range(3)))
        assert frame(store, "claims") == [{"trigger": TRIGGER, "count": 3}]
        assert await store.forget(TRIGGER, "order-0") == 1
        assert await store.forget(TRIGGER) == 2
        assert await store.forget(TRIGGER, "order-0") == 0
        assert await take(store, new_run("again", claim="order-0")) == NOTHING

    async def test_a_withdrawn_run_leaves_nothing_but_one_that_has_begun_stays(self, store: Store) -> None:
        waiting = {"status": RunStatus.WAITING, "started": ()}
        await take(store, new_run("r1", claim="a", declared=key("a"), **waiting), new_run("r2", claim="b", **waiting))
        await store.begin("r2", revision=1, attempt=1, started=(), at=AT)
        await store.accept(Acceptance(withdrawn={"r1": None, "r2": None}))
        assert await store.load("r1") is None
        assert (await loaded(store, "r2")).attempt == 1
        assert list(await store.seen(TRIGGER, ["a", "b", key("a")])) == ["b"]

    async def test_the_ids_of_a_withdrawn_run_are_spent_if_a_later_event_took_its_place(self, store: Store) -> None:
        run = new_run("r1", claim="a", declared=key("k"), members=[member("b")], status=RunStatus.WAITING, started=())
        await take(store, run)
        await store.accept(Acceptance(withdrawn={"r1": AT + 60}))
        assert await store.load("r1") is None
        spent = Refusal(spent=True)
        assert await store.seen(TRIGGER, ["a", "b", key("k")], at=AT + 59) == {"a": spent, "b": spent}
        assert await take(store, new_run("r2", claim="a", at=AT + 59)) == {"r2": spent}
        assert await store.seen(TRIGGER, ["a", "b"], at=AT + 60) == {}
        assert await take(store, new_run("r3", claim="a", at=AT + 60)) == NOTHING

    @pytest.mark.parametrize("status", ENDED)
    async def test_a_key_that_ends_with_its_run_is_free_however_that_ended(
        self, store: Store, status: RunStatus
    ) -> None:
        one, two = key("order-1"), key("order-2")
        await take(store, new_run("r1", declared=one, declared_ends=True, members=[member(None, two)]))
        assert sorted(await store.seen(TRIGGER, [one, two])) == [one, two]
        await end(store, "r1", status)
        assert await store.seen(TRIGGER, [one, two]) == {}
        assert await take(store, new_run("r2", declared=one, declared_ends=True), new_run("r3", declared=two)) == {}
        assert await take(store, new_run("r4", declared=one)) == {"r4": Refusal("r2", RunStatus.RUNNING)}

    @pytest.mark.parametrize("status", [RunStatus.HELD, RunStatus.NEEDS_CODE])
    async def test_a_key_that_ends_with_its_run_is_kept_by_one_that_is_still_to_go_on(
        self, store: Store, status: RunStatus
    ) -> None:
        one, three = key("order-1"), key("order-3")
        await take(store, new_run("r1", declared=one, declared_ends=True))
        await end(store, "r1", status)
        assert await take(store, new_run("r2", declared=one, declared_ends=True)) == {"r2": Refusal("r1", status)}
        await take(store, new_run("r3", declared=three, declared_ends=True))
        await store.end("r3", Ending(RunStatus.COMPENSATED), attempt=1, at=AT, retry_at=AT + 9)
        assert await store.seen(TRIGGER, [three]) == {three: Refusal("r3", RunStatus.WAITING)}

    # --- runs of several events ---

    async def test_the_claims_of_its_members_are_the_runs(self, store: Store) -> None:
        members = [member("order-2"), member(None), member("order-3"), member("order-3"), member("order-1")]
        run = new_run("r1", claim="order-1", claim_until=AT + 60, members=members)
        assert await take(store, run) == NOTHING
        mine = Refusal("r1", RunStatus.RUNNING)
        assert await store.seen(TRIGGER, ["order-3", "order-2"], at=AT) == {"order-3": mine, "order-2": mine}
        assert await take(store, new_run("r2", claim="order-2"), new_run("r3", members=[member("order-3")])) == {
            "r2": mine, "r3": mine,
        }  # fmt: skip
        assert await store.seen(TRIGGER, ["order-2"], at=AT + 60) == {}

    async def test_a_run_that_is_refused_for_a_member_takes_nothing(self, store: Store) -> None:
        await take(store, new_run("r1", claim="order-2"))
        late = new_run("r2", claim="order-1", members=[member("order-3"), member("order-2")], cooldown=("k", AT + 60))
        assert await take(store, late) == {"r2": Refusal("r1", RunStatus.RUNNING)}
        assert list(await store.seen(TRIGGER, ["order-1", "order-2", "order-3"])) == ["order-2"]
        assert await store.cooling(TRIGGER, at=AT) == {}

    async def test_a_withdrawn_run_frees_the_claims_of_its_members(self, store: Store) -> None:
        await take(store, new_run("r1", members=[member("a"), member("b")], status=RunStatus.WAITING, started=()))
        await store.accept(Acceptance(withdrawn={"r1": None}))
        assert await store.seen(TRIGGER, ["a", "b"]) == {}

    # --- cooldowns ---

    async def test_a_cooldown_refuses_others_of_its_key_until_its_time_however_the_run_ends(self, store: Store) -> None:
        refused = await take(store, new_run("r1", cooldown=("k", AT + 60)), new_run("r2", cooldown=("k", AT + 60)),
                             new_run("r3", cooldown=("other", AT + 60)), new_run("r4"))  # fmt: skip
        assert refused == {"r2": Refusal("r1", RunStatus.RUNNING, cooling_until=AT + 60)}
        await end(store, "r1", RunStatus.COMPENSATED)
        ended = Refusal("r1", RunStatus.COMPENSATED, cooling_until=AT + 60)
        assert await take(store, new_run("r5", at=AT + 59, cooldown=("k", AT + 119))) == {"r5": ended}
        assert await take(store, new_run("r6", at=AT + 60, cooldown=("k", AT + 120))) == NOTHING
        assert list(await take(store, new_run("r7", at=AT + 61, cooldown=("k", AT + 121)))) == ["r7"]

    async def test_who_asks_is_told_which_keys_cool_and_until_when(self, store: Store) -> None:
        await take(store, new_run("r1", cooldown=("k", AT + 60)), new_run("r2", cooldown=("o", AT + 59)))
        until_60 = {"k": Refusal("r1", RunStatus.RUNNING, cooling_until=AT + 60)}
        until_59 = {"o": Refusal("r2", RunStatus.RUNNING, cooling_until=AT + 59)}
        assert await store.cooling(TRIGGER, at=AT + 58) == until_60 | until_59
        assert await store.cooling(TRIGGER, at=AT + 59) == until_60
        assert await store.cooling(TRIGGER, at=AT + 60) == {}
        assert await store.cooling("orders.other", at=AT) == {}

    async def test_a_cooldown_is_no_claim_of_the_same_text(self, store: Store) -> None:
        await take(store, new_run("r1", claim="k"))
        assert await take(store, new_run("r2", cooldown=("k", AT + 60))) == NOTHING
        assert await store.seen(TRIGGER, ["k"]) == {"k": Refusal("r1", RunStatus.RUNNING)}

    async def test_a_run_that_waits_takes_its_cooldown_when_it_begins(self, store: Store) -> None:
        waiting = {"status": RunStatus.WAITING, "started": ()}
        await take(store, new_run("r1", cooldown=("k", AT + 60), **waiting))
        assert await store.cooling(TRIGGER, at=AT) == {}
        await take(store, new_run("r2", cooldown=("k", AT + 60)))
        assert list(await take(store, new_run("r3", cooldown=("k", AT + 60), **waiting))) == ["r3"]
        await store.begin("r1", revision=1, attempt=1, started=(), at=AT + 5, cooldown=("k", AT + 65))
        taken = {"k": Refusal("r1", RunStatus.RUNNING, cooling_until=AT + 65)}
        assert await store.cooling(TRIGGER, at=AT + 64) == taken

    async def test_forgetting_a_key_frees_its_claim_and_its_cooldown(self, store: Store) -> None:
        await take(store, new_run("r1", claim="k", cooldown=("k", AT + 60)), new_run("r2", cooldown=("o", AT + 60)))
        await wait(store, waiting_event("h1", claim="waits"))
        assert await store.forget(TRIGGER, "k") == 2
        assert await store.forget(TRIGGER, "waits") == 0
        assert await store.forget(TRIGGER) == 1
        assert await take(store, new_run("r3", claim="k", cooldown=("o", AT + 60))) == NOTHING
        assert await store.seen(TRIGGER, ["waits"]) == {"waits": Refusal()}

    async def test_of_many_that_start_at_once_one_has_the_cooldown_and_one_the_member(self, store: Store) -> None:
        cooled = await asyncio.gather(*(take(store, new_run(f"c{n}", cooldown=("k", AT + 60))) for n in range(20)))
        joined = await asyncio.gather(*(take(store, new_run(f"j{n}", members=[member("order-1")])) for n in range(20)))
        for answers in (cooled, joined):
            assert sorted(len(answer) for answer in answers) == [0] + [1] * 19

    # --- waiting events ---

    async def test_waiting_events_come_back_oldest_first_also_after_a_stop(self, store: Store) -> None:
        waiting = [
            waiting_event(f"h{n}", at=AT - n, key=None if n else "k\x00", part=n, claim=f"c{n}") for n in range(3)
        ]
        waiting[1] = waiting[1]._replace(trigger="orders.on_return")
        assert await wait(store, *waiting) == NOTHING
        await store.close()
        await store.open("the next notebook")
        found = await store.waiting([TRIGGER, "orders.on_return", "orders.other"])
        assert [(it.id, it.trigger, it.key, it.part, it.claim, it.at) for it in found] == [
            (it.id, it.trigger, it.key, it.part, it.claim, it.at) for it in waiting
        ]
        assert [(it.event.id, it.event.payload) for it in found] == [(f"event-h{n}", {"n": 1}) for n in range(3)]
        assert [it.id for it in await store.waiting([TRIGGER])] == ["h0", "h2"]
        assert await store.waiting([]) == []

    async def test_what_waits_has_its_claim(self, store: Store) -> None:
        await take(store, new_run("r1", claim="order-1"))
        refused = await wait(store, waiting_event("h1", claim="order-1"), waiting_event("h2", claim="order-2"),
                             waiting_event("h3", claim="order-2"), *[waiting_event("h4")] * 2)  # fmt: skip
        assert refused == {"h1": Refusal("r1", RunStatus.RUNNING), "h3": Refusal(), "h4": Refusal()}
        assert [it.id for it in await store.waiting([TRIGGER])] == ["h2", "h4"]
        assert await store.seen(TRIGGER, ["order-1", "order-2"]) == {
            "order-1": Refusal("r1", RunStatus.RUNNING), "order-2": Refusal(),
        }  # fmt: skip
        assert await take(store, new_run("r2", claim="order-2")) == {"r2": Refusal()}

    async def test_what_waits_has_its_declared_key_too(self, store: Store) -> None:
        await wait(store, waiting_event("h1", claim="e1", declared=key("k")))
        assert await wait(store, waiting_event("h2", claim="e2", declared=key("k"))) == {"h2": Refusal()}
        assert await store.seen(TRIGGER, ["e1", "e2", key("k")]) == {"e1": Refusal(), key("k"): Refusal()}
        assert [(it.claim, it.declared) for it in await store.waiting([TRIGGER])] == [("e1", key("k"))]
        run = new_run("r1", claim="e1", declared=key("k"))
        assert await store.accept(Acceptance(released=["h1"], runs=[run])) == NOTHING
        mine = Refusal("r1", RunStatus.RUNNING)
        assert await store.seen(TRIGGER, ["e1", key("k")]) == {"e1": mine, key("k"): mine}

    async def test_an_event_that_is_superseded_keeps_its_id_until_its_time_and_no_key(self, store: Store) -> None:
        await wait(store, waiting_event("h1", claim="e1", declared=key("k")))
        spent = Spent(TRIGGER, "e1", AT + 60)
        await store.accept(Acceptance(released=["h1"], spent=[spent, Spent(TRIGGER, "e2", AT + 60)]))
        told = await store.seen(TRIGGER, ["e1", "e2", key("k")], at=AT + 59)
        assert told == {"e1": Refusal(spent=True), "e2": Refusal(spent=True)}
        assert await wait(store, waiting_event("h2", claim="e1", at=AT + 59)) == {"h2": Refusal(spent=True)}
        assert await wait(store, waiting_event("h3", claim="e1", at=AT + 60)) == NOTHING

    async def test_what_is_spent_takes_the_claim_of_nobody(self, store: Store) -> None:
        await take(store, new_run("r1", claim="e1"))
        await store.accept(Acceptance(spent=[Spent(TRIGGER, "e1", AT + 60)]))
        assert await store.seen(TRIGGER, ["e1"], at=AT) == {"e1": Refusal("r1", RunStatus.RUNNING)}
        assert await store.forget(TRIGGER) == 1

    # --- dead letters ---

    async def test_a_dead_letter_has_the_id_of_its_event(self, store: Store) -> None:
        letters = [dead_letter(id, claim="e1", claim_until=AT + 60) for id in ("d1", "d2")]
        mine = Refusal(letter="d1")
        published = [publication("d1"), publication("d2")]
        assert await store.accept(Acceptance(dead=letters, publications=published)) == {"d2": mine}
        assert [row["id"] for row in frame(store, "dead_letters")] == ["d1"]
        assert [it.id for _, it in await store.publications(9)] == ["d1"]
        assert await store.seen(TRIGGER, ["e1"], at=AT + 59) == {"e1": mine}
        assert await take(store, new_run("r1", claim="e1")) == {"r1": mine}
        assert await wait(store, waiting_event("h1", claim="e1")) == {"h1": mine}
        await store.settle_letters(["d1"], "discarded", "known")
        assert await take(store, new_run("r2", claim="e1")) == {"r2": mine}
        assert await take(store, new_run("r3", claim="e1", at=AT + 60)) == NOTHING

    async def test_of_many_that_die_at_once_with_one_id_one_is_a_letter(self, store: Store) -> None:
        letters = [Acceptance(dead=[dead_letter(f"d{n}", claim="e1", claim_until=AT + 60)]) for n in range(20)]
        answers = await asyncio.gather(*(store.accept(batch) for batch in letters))
        assert sorted(len(answer) for answer in answers) == [0] + [1] * 19
        assert len(frame(store, "dead_letters")) == 1

    async def test_a_letter_has_the_claim_of_the_run_that_is_withdrawn_for_it(self, store: Store) -> None:
        await take(store, new_run("r1", claim="e1", status=RunStatus.WAITING, started=()))
        letter = dead_letter("d1", claim="e1", claim_until=AT + 60)
        assert await store.accept(Acceptance(withdrawn={"r1": None}, dead=[letter])) == NOTHING
        assert await store.seen(TRIGGER, ["e1"], at=AT) == {"e1": Refusal(letter="d1")}

    async def test_a_redrive_hands_the_claim_on_and_settles_the_letter_at_once(self, store: Store) -> None:
        await take(store, new_run("r0", claim="e2"))
        await end(store, "r0", RunStatus.COMPENSATED)
        failed = dead_letter("d2", run_id="r0")
        await store.accept(Acceptance(dead=[dead_letter("d1", claim="e1", claim_until=AT + 60), failed]))
        redriven = [Redriven("d1", TRIGGER, "e1", None, AT + 60), Redriven("d2", TRIGGER, "e2", "r0", AT + 60)]
        runs = [new_run("r1", claim="e1"), new_run("r2", claim="e2")]
        assert await store.accept(Acceptance(runs=runs, redriven=redriven)) == NOTHING
        assert await store.letters(["d1", "d2"]) == []
        assert {claim: it.first_run for claim, it in (await store.seen(TRIGGER, ["e1", "e2"], at=AT)).items()} == {
            "e1": "r1", "e2": "r2",
        }  # fmt: skip
        again = [new_run("r3", claim="e1"), new_run("r4", claim="e2")]
        assert list(await store.accept(Acceptance(runs=again, redriven=redriven))) == ["r3", "r4"]

    async def test_a_redrive_of_which_nothing_came_leaves_the_claim_with_the_letter(self, store: Store) -> None:
        await take(store, new_run("r0", declared=key("k")))
        await store.accept(Acceptance(dead=[dead_letter("d1", claim="e1", claim_until=AT + 60)]))
        batch = Acceptance(runs=[new_run("r1", claim="e1", declared=key("k"))],
                           redriven=[Redriven("d1", TRIGGER, "e1", None, AT + 60)])  # fmt: skip
        assert await store.accept(batch) == {"r1": Refusal("r0", RunStatus.RUNNING)}
        assert await store.letters(["d1"]) == []
        assert await store.seen(TRIGGER, ["e1"], at=AT) == {"e1": Refusal(letter="d1")}

    async def test_of_many_who_redrive_one_letter_at_once_one_starts_a_run(self, store: Store) -> None:
        await store.accept(Acceptance(dead=[dead_letter("d1")]))
        redriven = [Redriven("d1", TRIGGER, "e1", None, AT + 60)]
        batches = [Acceptance(runs=[new_run(f"r{n}", claim="e1")], redriven=redriven) for n in range(20)]
        answers = await asyncio.gather(*(store.accept(batch) for batch in batches))
        assert sorted(len(answer) for answer in answers) == [0] + [1] * 19

    async def test_a_redriven_event_that_cannot_be_stored_leaves_its_letter_open(self, store: Store) -> None:
        await store.accept(Acceptance(dead=[dead_letter("d1", claim="e1", claim_until=AT + 60)]))
        batch = Acceptance(runs=[new_run("r1", claim="e1", context={"model": object()})],
                           redriven=[Redriven("d1", TRIGGER, "e1", None, AT + 60)])  # fmt: skip
        if store.traits.survives:
            assert isinstance((await store.accept(batch))["r1"].error, UnstorableValue)
            assert [it.id for it in await store.letters(["d1"])] == ["d1"]

    async def test_an_event_that_waits_already_leaves_the_claim_of_its_second_coming_free(self, store: Store) -> None:
        await wait(store, waiting_event("h1", claim="order-1"))
        assert await wait(store, waiting_event("h1", claim="order-2")) == {"h1": Refusal()}
        assert list(await store.seen(TRIGGER, ["order-1", "order-2"])) == ["order-1"]

    async def test_what_is_released_gives_its_claim_to_a_run_of_the_same_batch(self, store: Store) -> None:
        await wait(store, *(waiting_event(f"h{n}", claim=f"order-{n}") for n in range(3)))
        run = new_run("r1", claim="order-0", members=[member("order-1")])
        assert await store.accept(Acceptance(runs=[run], released=["h0", "h1", "nowhere"])) == NOTHING
        assert [it.id for it in await store.waiting([TRIGGER])] == ["h2"]
        mine = Refusal("r1", RunStatus.RUNNING)
        seen = await store.seen(TRIGGER, ["order-0", "order-1", "order-2"])
        assert seen == {"order-0": mine, "order-1": mine, "order-2": Refusal()}
        await store.accept(Acceptance(released=["h2"]))
        assert await store.seen(TRIGGER, ["order-2"]) == {}

    async def test_a_batch_that_has_a_refused_run_still_takes_in_the_rest(self, store: Store) -> None:
        await take(store, new_run("r1", claim="order-1"))
        await wait(store, waiting_event("h1"))
        batch = Acceptance(runs=[new_run("r2", claim="order-1"), new_run("r3")], waiting=[waiting_event("h2")],
                           released=["h1"])  # fmt: skip
        assert list(await store.accept(batch)) == ["r2"]
        assert await store.load("r3") is not None
        assert [it.id for it in await store.waiting([TRIGGER])] == ["h2"]

    async def test_a_waiting_event_can_be_large_and_is_refused_if_it_cannot_be_stored(self, store: Store) -> None:
        large = waiting_event("h1", event=Event({"image": b"x" * 100_000}, id="large"))
        assert await wait(store, large) == NOTHING
        (found,) = await store.waiting([TRIGGER])
        assert found.event.payload == {"image": b"x" * 100_000}
        if store.traits.survives:
            refused = await wait(store, waiting_event("h2", event=Event({"model": object()}, id="none")))
            assert isinstance(refused["h2"].error, UnstorableValue)
