"""What only the memory store could get wrong, since it keeps objects as they are."""

import gc
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
    tried = [record("r1", RecordKind.ACTION_FAILED, trial=trial, error="no") for trial in range(1, 300)]
    bare = record("r1", RecordKind.ACTION_STARTED, trial=300)
    for each in tried:
        await store.append([each])
    before = store._runs["r1"].journal
    await store.append([bare, tried[-1]])
    assert store._runs["r1"].journal is before
    assert [it.trial for it in store.run("r1").records] == [1, *range(1, 301), 299]
