"""Tests of events that leave their windows."""

from __future__ import annotations

from sagaz_lab.abc import Acceptance, Refusal, Store
from sagaz_lab.errors import UnstorableValue
from sagaz_lab.testing.store_values import TRIGGER, new_run, wait, waiting_event


class WaitingSuite:
    """Part of the `StoreSuite`."""

    async def test_what_leaves_with_a_run_that_cannot_be_stored_goes_on_waiting(self, store: Store) -> None:
        await wait(store, waiting_event("h0", claim="order-0"), waiting_event("h1", claim="order-1"))
        run = new_run("r1", claim="order-0", context={"rows": iter([1])})
        refused = await store.accept(Acceptance(runs=[run], released=["h0", "h1"], released_with={"h0": "r1"}))
        assert isinstance(refused["r1"].error, UnstorableValue)
        assert [it.id for it in await store.waiting([TRIGGER])] == ["h0"]
        assert await store.seen(TRIGGER, ["order-0", "order-1"]) == {"order-0": Refusal()}
