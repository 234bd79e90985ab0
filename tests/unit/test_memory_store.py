"""What only the memory store could get wrong, since it keeps objects as they are."""

import gc
import tracemalloc
from weakref import ref

from sagaz_lab import Lab, Saga, action
from sagaz_lab.model.run import RecordKind
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.store_values import new_run, record, take


async def test_a_lab_that_its_own_runs_know_of_is_collected() -> None:
    async def leave() -> ref[Lab]:
        async with Lab("memory") as lab:
            with lab.activate():

                class Work(Saga):
                    @action("work")
                    async def work(self, ctx):
                        return {"how": lambda: lab}

                await Work().run({"lab": lab})
        return ref(lab)

    left = await leave()
    gc.collect()
    assert left() is None


async def test_a_long_journal_is_not_copied_with_each_record() -> None:
    store = MemoryStore()
    await take(store, new_run("r1"))
    tried = [record("r1", RecordKind.ACTION_FAILED, trial=trial, error="no") for trial in range(1, 10_000)]
    bare = record("r1", RecordKind.ACTION_STARTED, trial=10_000)
    for each in tried:
        await store.append([each])
    tracemalloc.start()
    try:
        await store.append([bare, tried[-1]])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 40_000, "a list of all has 80,000 bytes"
    assert [it.trial for it in store.run("r1").records] == [1, *range(1, 10_001), 9_999]
