"""Claims in the memory store, beside a model of what they should be."""

import gc
import random
from itertools import count
from weakref import ref

import pytest

from sagaz_lab.abc import KEY_MARK, Acceptance, Ending, NewRun
from sagaz_lab.model.run import RunStatus
from sagaz_lab.stores.memory.claims import Taken
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.store_values import TRIGGER, key, new_run

TRIGGERS = (TRIGGER, "orders.other")
IDS, KEYS = [f"c{n}" for n in range(20)], [key(f"c{n}") for n in range(20)]
FREES = {RunStatus.COMPENSATED, RunStatus.CANCELLED}


class Model:
    """Who has each claim, by the words of the documentation."""

    def __init__(self) -> None:
        self.holders: dict[tuple[str, str], tuple[str, float]] = {}
        self.status: dict[str, RunStatus] = {}
        self.ends: set[str] = set()

    def holder(self, trigger: str, claim: str, at: float) -> str | None:
        run_id, until = self.holders.get((trigger, claim), ("", 0.0))
        if until <= at:
            return None
        status = self.status[run_id]
        ended = status is not RunStatus.RUNNING
        free = claim.startswith(KEY_MARK) and (status in FREES or (ended and run_id in self.ends))
        return None if free else run_id


def random_run(run_id: str, dice: random.Random, at: float) -> NewRun:
    """With one claim, of an id or of a declared key."""
    trigger, until = dice.choice(TRIGGERS), at + dice.choice([5.0, 50.0, 500.0])
    if dice.random() < 0.5:
        return new_run(run_id, trigger=trigger, at=at, claim=dice.choice(IDS), claim_until=until)
    return new_run(run_id, trigger=trigger, at=at, declared=dice.choice(KEYS), declared_until=until,
                   declared_ends=dice.random() < 0.4)  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
async def test_a_claim_is_whose_it_should_be_whatever_became_of_the_runs(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sagaz_lab.stores.memory.store.ENDED_RUNS", 10)
    dice, store, model, numbers = random.Random(seed), MemoryStore(), Model(), count()
    live: list[str] = []
    for at in range(600):
        runs = [random_run(f"r{next(numbers)}", dice, float(at)) for _ in range(dice.randrange(4))]
        refused = await store.accept(Acceptance(runs=runs))
        for run in runs:
            claim = run.claim or run.declared or ""
            holder = model.holder(run.trigger or "", claim, at)
            assert (run.run_id in refused) == (holder is not None)
            if holder is not None:
                assert refused[run.run_id].first_run == holder
                kept = store.run(holder) is not None or run.claim is None
                assert refused[run.run_id].first_status is (model.status[holder] if kept else None)
                continue
            until = run.claim_until or run.declared_until or 0.0
            model.holders[run.trigger or "", claim] = (run.run_id, until)
            model.status[run.run_id] = RunStatus.RUNNING
            if run.declared_ends:
                model.ends.add(run.run_id)
            live.append(run.run_id)
        dice.shuffle(live)
        for _ in range(dice.randrange(4) if len(live) > 5 else 0):
            run_id, status = live.pop(), dice.choice([RunStatus.COMPLETED, *FREES])
            await store.end(run_id, Ending(status), attempt=1, at=float(at))
            model.status[run_id] = status
        if dice.random() < 0.05:
            trigger, name = dice.choice(TRIGGERS), dice.choice(IDS)
            await store.forget(trigger, name)
            for claim in (name, key(name)):
                model.holders.pop((trigger, claim), None)
        for trigger in TRIGGERS:
            seen = await store.seen(trigger, [*IDS, *KEYS], at=float(at))
            holders = {claim: model.holder(trigger, claim, at) for claim in [*IDS, *KEYS]}
            assert {claim: said.first_run for claim, said in seen.items()} == {c: r for c, r in holders.items() if r}


async def test_claims_that_were_taken_together_end_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sagaz_lab.stores.memory.store.ENDED_RUNS", 1)
    store = MemoryStore()
    await store.accept(Acceptance(runs=[new_run(f"r{n}", declared=key(f"c{n}")) for n in range(250)]))
    for n in range(250):
        status = RunStatus.COMPENSATED if n % 2 else RunStatus.COMPLETED
        await store.end(f"r{n}", Ending(status), attempt=1, at=1.0)
    assert store.run("r0") is None
    seen = await store.seen(TRIGGER, [key(f"c{n}") for n in range(250)])
    assert {claim: said.first_run for claim, said in seen.items()} == {key(f"c{n}"): f"r{n}" for n in range(0, 250, 2)}


class Claim(str):  # noqa: SLOT000  so that it can be referred to weakly
    """A text of which it can be seen whether it is kept."""


async def test_a_claim_that_lasts_keeps_nothing_of_those_that_were_taken_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sagaz_lab.stores.memory.store.ENDED_RUNS", 10)
    store, numbers, given = MemoryStore(), count(), list[ref[Claim]]()
    for at in range(50):
        claims = [Claim(f"only-{at}"), *(Claim(f"hot-{n}") for n in range(99))]
        given.extend(map(ref, claims))
        runs = [new_run(f"r{next(numbers)}", claim=claim) for claim in claims]
        assert await store.accept(Acceptance(runs=runs)) == {}
        for run in runs:
            await store.end(run.run_id, Ending(RunStatus.COMPLETED), attempt=1, at=float(at))
        for claim in claims[1:]:
            assert await store.forget(TRIGGER, claim) == 1
    del claims, runs, claim, run
    kept = sum(claim() is not None for claim in given)
    assert 50 <= kept <= 2 * 50 + 10, "as many as last, at most as many more, and those of the runs that are kept"
    seen = await store.seen(TRIGGER, ["only-0", "only-49", "hot-1"])
    assert {claim: said.first_run for claim, said in seen.items()} == {"only-0": "r0", "only-49": "r4900"}


async def test_one_claim_that_comes_again_leaves_the_others_together() -> None:
    gc.collect()
    before = sum(isinstance(it, Taken) for it in gc.get_objects())
    store = MemoryStore()
    assert await store.accept(Acceptance(runs=[new_run("first", declared=key("again"))])) == {}
    await store.end("first", Ending(RunStatus.COMPENSATED), attempt=1, at=1.0)
    claims = [key(f"c{n}") for n in range(90)]
    claims[50] = key("again")
    runs = [new_run(f"r{n}", declared=claim) for n, claim in enumerate([*claims, key("c7")])]
    refused = await store.accept(Acceptance(runs=runs))
    assert {run_id: said.first_run for run_id, said in refused.items()} == {"r90": "r7"}
    seen = await store.seen(TRIGGER, claims)
    assert {claim: said.first_run for claim, said in seen.items()} == {claim: f"r{n}" for n, claim in enumerate(claims)}
    gc.collect()
    assert sum(isinstance(it, Taken) for it in gc.get_objects()) - before == 2
