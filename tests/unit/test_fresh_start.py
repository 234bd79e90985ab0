"""A fresh start forgets what earlier runs have claimed, and says how much."""

import re
from pathlib import Path

import pytest

from sagaz_lab import Batch, Lab, Saga, action, trigger
from sagaz_lab.errors import SagazLabError
from tests.unit.tools import assert_adds_up, counted, until


def define() -> None:
    class Keyed(Saga):
        @trigger(source="memory", topic="k", idempotency_key="n", cooldown=3600)
        def on_key(self, event):
            return {}

        @trigger(source="memory", topic="b", batch=Batch(max_size=3, timeout="1h"), idempotency_key="n")
        def on_batch(self, events):
            return {}

        @action()
        async def work(self, ctx): ...


async def session(address: str, fresh: bool) -> tuple[list[str], list[str]]:
    """Outcomes of two events, and what was reported."""
    async with Lab(address) as lab:
        told: list[str] = []
        lab.on_report(lambda kind, text: told.append(text))
        define()
        await lab.start(fresh=fresh)
        (key,) = await lab.fire("Keyed.on_key", {"n": 1})
        (batch,) = await lab.fire("Keyed.on_batch", {"n": 1}, wait=False)
        await until(lambda: not lab.status().runs)
        assert_adds_up(lab)
        return [str(key.kind), str(batch.kind)], told


async def test_keys_cooldowns_and_windows_of_earlier_sessions_are_forgotten(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/lab.db"
    assert (await session(address, fresh=False))[0] == ["started", "waiting"]
    outcomes, told = await session(address, fresh=False)
    assert outcomes == ["duplicate", "duplicate"]
    assert "Another process started that run, before this one or beside it; %triggers start --fresh" in " ".join(told)
    outcomes, told = await session(address, fresh=True)
    assert outcomes == ["started", "waiting"]
    assert "forgot 2 claims or cooldowns and 1 waiting event of Keyed.on_key, Keyed.on_batch" in told


async def test_a_running_lab_can_start_afresh(each_lab: Lab) -> None:
    define()
    await each_lab.start()
    await each_lab.fire("Keyed.on_key", {"n": 1})
    await each_lab.fire("Keyed.on_batch", {"n": 1}, wait=False)
    await each_lab.start("Keyed.on_batch", fresh=True)
    assert counted(each_lab, "Keyed.on_batch") == {"received": 1, "filtered": 1}
    assert each_lab.outcomes()["reason"].iloc[0] == "forgotten by a fresh start"
    assert str((await each_lab.fire("Keyed.on_key", {"n": 1}))[0].kind) == "duplicate"
    await each_lab.start(fresh=True)
    assert str((await each_lab.fire("Keyed.on_key", {"n": 1}))[0].kind) == "started"


async def test_a_duplicate_of_this_session_is_no_sign_of_an_earlier_one(each_lab: Lab) -> None:
    told: list[str] = []
    each_lab.on_report(lambda kind, text: told.append(text))
    define()
    for _ in range(3):
        await each_lab.fire("Keyed.on_key", {"n": 1})
    assert told == []


async def test_a_lab_goes_on_in_another_store(tmp_path: Path) -> None:
    async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:
        define()
        await lab.fire("Keyed.on_key", {"n": 1})
        await lab.use("memory")
        assert not lab.is_open
        assert str((await lab.fire("Keyed.on_key", {"n": 1}))[0].kind) == "started"
        assert len(lab.runs()) == 1
        assert list(lab.revisions("Keyed")["number"]) == [1]


async def test_events_that_a_fresh_start_forgets_are_not_counted_as_waiting(each_lab: Lab) -> None:
    told: list[str] = []
    each_lab.on_report(lambda kind, text: told.append(text))
    define()
    await each_lab.start()
    for n in range(2):
        await each_lab.fire("Keyed.on_batch", {"n": n}, wait=False)
    await each_lab.start(fresh=True)
    away = each_lab.status().away
    assert away is not None
    assert away.events_waited == 0
    assert told == ["forgot 0 claims or cooldowns and 2 waiting events of Keyed.on_key, Keyed.on_batch"]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("sqlite:///{}/notes.txt", "it is not a SQLite database"),
        ("sqlite:///{}/notes.txt/lab.db", "notes.txt"),
        ("sqlite:///{}", "it cannot be opened or created"),
        ("sqlite:////proc/none/lab.db", "/proc/none"),
        ("sqlite:///{}/lab.db?mode=ro", "no options are allowed after a '?'"),
        ("postgresql://127.0.0.1:1/db", "port 1 failed: Connection refused"),
        ("sqlit:///lab.db", "did you mean 'sqlite'"),
    ],
)
async def test_a_store_that_cannot_be_used_leaves_all_as_it_was(tmp_path: Path, address: str, why: str) -> None:
    (tmp_path / "notes.txt").write_text("no store " * 2000)
    async with Lab("memory") as lab:
        define()
        await lab.start()
        await lab.fire("Keyed.on_key", {"n": 1})
        with pytest.raises(SagazLabError, match=re.escape(why)):
            await lab.use(address.format(tmp_path))
        assert lab.is_open
        assert lab.status().started
        assert str((await lab.fire("Keyed.on_key", {"n": 1}))[0].kind) == "duplicate"
        await lab.use(f"sqlite:///{tmp_path}/new/lab.db")
        assert str((await lab.fire("Keyed.on_key", {"n": 1}))[0].kind) == "started"
