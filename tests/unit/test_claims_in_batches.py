"""A batch decides as its events would one by one: nobody is the duplicate of what never was."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sagaz_lab import Batch, Debounce, Event, Lab, Outcome, Saga, TriggerConfig, action, trigger
from sagaz_lab.abc import Acceptance, Delivery, Refusal
from sagaz_lab.errors import StoreError
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import ByHand, assert_adds_up

EXAMPLES = int(os.environ.get("CLAIMS_EXAMPLES", "30"))
PHASES = [Phase.reuse, Phase.generate]

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "cooldown": {"cooldown": "1h", "concurrency_key": "k", "max_concurrent_sagas": 9},
    **{
        f"singleton {mode}": {"singleton": mode, "concurrency_key": "k", "max_concurrent_sagas": 9}
        for mode in ("skip", "return_existing", "error")
    },
    "singleton cancel": {"singleton": "cancel", "concurrency_key": "k", "max_concurrent_sagas": 1},
    **{strategy: {"max_concurrent_sagas": 1} for strategy in ("drop_newest", "drop_oldest", "reject")},
    **{f"batch {strategy}": {"batch": Batch(2, "1h")} for strategy in ("drop_newest", "reject", "drop_oldest")},
    "batch block": {"batch": Batch(5, "1h")},
    "all": {"debounce": Debounce("1m", "1h", mode="all")},
    "leading": {"debounce": Debounce("1m", "1h", key="k", mode="leading")},
    "trailing": {"debounce": Debounce("1m", "1h", key="k")},
}


class Arrives(NamedTuple):
    """An event: its id, its declared key, its concurrency key, and what the method makes of it."""

    id: str
    declared: str
    k: str
    what: str

    def delivery(self, fresh: bool) -> Delivery:
        payload = {"d": self.declared, "k": self.k, "what": self.what}
        if self.what == "unstorable event":
            payload["value"] = object()  # type: ignore[assignment]
        return Delivery(Event(payload, self.id), None, fresh)


class Refusing(MemoryStore):
    """Another process takes "z" ids between the look and the write, and some contexts cannot be stored."""

    async def seen(self, trigger: str, claims: Sequence[str], *, at: float | None = None) -> Mapping[str, Refusal]:
        found = await super().seen(trigger, claims, at=at)
        return {claim: refusal for claim, refusal in found.items() if not claim.startswith("z")}

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        unfit = [run for run in batch.runs if "unstorable" in run.context]
        batch.runs = [run for run in batch.runs if run not in unfit]
        refused = {run.run_id: Refusal(error=StoreError("it cannot be stored")) for run in unfit}
        return {**await super().accept(batch), **refused}


def define(case: str, source: ByHand) -> None:
    strategy = (
        case.rpartition(" ")[2] if case.rpartition(" ")[2] in ("drop_newest", "drop_oldest", "reject") else "block"
    )
    size = 4 if strategy != "block" else 100

    class Flow(Saga):
        saga_name = "flow"
        trigger_config = TriggerConfig(max_retries=0, queue_size=size, backpressure_strategy=strategy)

        @trigger(source=source, idempotency_key="d", **CASES[case])
        def on_event(self, given: Any) -> Any:
            events = given if isinstance(given, list) else [given]
            whats = {event["what"] for event in events}
            if "raises" in whats:
                raise ValueError("raises")
            if "unstorable" in whats:
                return {"unstorable": True}
            return None if "none" in whats else {"keys": [event["d"] for event in events]}

        @action("work")
        async def work(self, ctx: Any) -> None:
            await asyncio.Event().wait()


async def made_of(case: str, store: Any, events: Sequence[Arrives], cuts: Sequence[int], fresh: bool) -> Any:
    """What became of the events, when they come in batches that are cut so."""
    clock = VirtualClock()
    lab, source = Lab(store, clock=clock), ByHand()
    with lab.activate():
        define(case, source)
        await lab.start()
        first = [Arrives("z1", "zd", "z", "start"), Arrives("p", "pd", "p", "start")]
        for event in first:
            await source.give([event.delivery(False)])
        told: list[Outcome] = []
        for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
            if batch := [event.delivery(fresh) for event in events[start:end]]:
                told += [outcome for outcomes in await source.give(batch) for outcome in outcomes]
                await asyncio.sleep(0)
        counters = {k: n for k, n in lab.counters()["flow.on_event"].items() if n}
        columns, rows = lab.store.rows("runs", None)
        event, status = columns.index("event_id"), columns.index("status")
        runs = Counter((str(row[event]), str(row[status])) for row in rows)
        if "cancel" not in case and "drop_oldest" not in case:  # where the first may have gone since
            ids = {row[columns.index("run_id")] for row in rows}
            named = [outcome.run_id for outcome in told if outcome.kind == "duplicate" and outcome.run_id is not None]
            assert set(named) <= ids, "a duplicate names a run that is there"
            if any("an event that waits" in outcome.reason for outcome in told):
                assert await lab.store.waiting(["flow.on_event"]) or runs
        letters = Counter(letter.event.id for _, letter in await lab.store.letters_after(0, 1000))
        assert_adds_up(lab)
    await lab.stop(grace_s=0)
    return counters, runs, letters


WHATS = ["start"] * 4 + ["none", "raises", "unstorable", "unstorable event"]
EVENTS = st.lists(
    st.builds(Arrives, id=st.sampled_from("abcdef"), declared=st.sampled_from("ABC"), k=st.sampled_from("kl"),
              what=st.sampled_from(WHATS)),
    min_size=2, max_size=9,
)  # fmt: skip

ORDERED = ("plain", "cooldown", "batch block", "all", "leading", "trailing")
"""Where what is decided later than it came loses no place to others of its batch."""


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=EXAMPLES, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(data=st.data(), fresh=st.booleans())
async def test_a_batch_cut_anyhow_leaves_no_duplicate_of_what_never_was(
    case: str, data: st.DataObject, fresh: bool
) -> None:
    events = data.draw(EVENTS)
    in_window = "batch" in CASES[case] or "debounce" in CASES[case]
    if case not in ORDERED or case == "plain":
        events = [event._replace(id="z1") if event.id == "f" else event for event in events]
    if in_window:
        events = [event._replace(what="start") for event in events]
    if in_window or "cooldown" in case:  # an event that comes again is the same event
        events = [event._replace(declared="ABC"[ord(event.id[0]) % 3]) for event in events]
    if "cooldown" in case:
        events = [event._replace(k=event.declared) for event in events]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(events) - 1))))
    cut = await made_of(case, Refusing(), events, cuts, fresh)
    if case in ORDERED:
        assert cut == await made_of(case, Refusing(), events, range(1, len(events)), fresh)


async def test_an_event_that_shares_a_claim_with_one_that_is_not_decided_yet_is_decided_after_it() -> None:
    events = [
        Arrives("d", "C", "k", "unstorable"),
        Arrives("e", "C", "k", "start"),  # has its key once the store has refused the run before
        Arrives("e", "B", "k", "start"),
        Arrives("z1", "C", "k", "unstorable"),
    ]
    counters, runs, letters = await made_of("plain", Refusing(), events, (), fresh=False)
    assert (counters, runs, letters) == await made_of("plain", Refusing(), events, (1, 2, 3), fresh=False)
    assert counters == {"received": 6, "started": 3, "dead": 1, "duplicate": 2}
