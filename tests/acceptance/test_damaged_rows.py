"""One damaged row concerns its own run or event: all others go on, and the damage can be seen and repaired."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Batch, Lab, Saga, SagaContext, TriggerConfig, action, trigger
from sagaz_lab.abc import Acceptance, Event, Publication
from sagaz_lab.errors import StoreError, Unreadable
from sagaz_lab.testing.store_values import dead_letter
from tests.unit.tools import until

FRAMES = ("runs", "steps", "outcomes", "dead_letters", "causes", "events", "publications", "counts")
DAMAGES = {
    "bytes": "x'fffe00'",
    "TEXT": "'}}garbage{{'",
    "BLOB": "substr({column}, 1, length({column}) - 1)",
}


class Life:
    """One opening of the Lab; runs stand still in their second action before `go`."""

    def __init__(self, folder: Path) -> None:
        self.lab = Lab(store=f"sqlite:///{folder / 'lab.db'}")
        self.go = asyncio.Event()
        self.done: list[int] = []
        self.windows: list[list[int]] = []
        self.reports: list[str] = []
        self.lab.on_report(lambda kind, text: self.reports.append(text) if kind != "away" else None)
        with self.lab.activate():
            self._define()

    def _define(self) -> None:
        life = self

        class Flow(Saga):
            saga_name = "flow"
            trigger_config = TriggerConfig(max_retries=0, persist_events=True)

            @trigger(source="memory", topic="flow", max_concurrent_sagas=3, cooldown="1ms", concurrency_key="n",
                     params={"least": 1})  # fmt: skip
            def on_event(self, event: Any) -> Any:
                if event["n"] < 0:
                    raise ValueError("negative")
                return {"n": event["n"], "blob": b"z" * 5000} if event["n"] >= self.params["least"] else None

            @action("first")
            async def first(self, ctx: SagaContext) -> Any:
                return {"twice": 2 * ctx["n"]}

            @action("second", depends_on=["first"])
            async def second(self, ctx: SagaContext) -> None:
                await life.go.wait()
                assert ctx["twice"] == 2 * ctx["n"]
                life.done.append(ctx["n"])

        class Window(Saga):
            saga_name = "window"

            @trigger(source="memory", topic="window", batch=Batch(100, "1h"))
            def on_events(self, events: Any) -> dict[str, Any]:
                return {"ns": [event["n"] for event in events]}

            @action("note")
            async def note(self, ctx: SagaContext) -> None:
                life.windows.append(ctx["ns"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has rows in every table."""
    folder = tmp_path_factory.mktemp("written")

    async def write() -> None:
        life = Life(folder)
        lab = life.lab
        await lab.start()
        for n in range(1, 7):  # three run, three wait for their turn
            await lab.fire("flow.on_event", {"n": n}, id=f"e{n}", wait=False)
        for n in range(3):
            await lab.fire("flow.on_event", {"n": -1}, id=f"dead{n}", wait=False)
            await lab.fire("window.on_events", {"n": n, "blob": b"z" * (5000 if n == 1 else 1)}, id=f"h{n}", wait=False)
        await lab.set_params("flow.on_event", least=0)
        await lab.set_limits("flow.on_event", max_concurrent_sagas=4)
        waiting = [Publication(f"p{n}", "topic", b"{}", "gone.on_event", f"r{n}") for n in range(2)]
        await lab.store.accept(Acceptance(publications=waiting))
        await until(lambda: len(lab.status().runs) >= 3 and all("second" in it.actions for it in lab.status().runs))
        await lab.stop(0)

    asyncio.run(write())
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


def change(folder: Path, sql: str) -> int:
    with closing(sqlite3.connect(folder / "lab.db")) as connection, connection:
        return connection.execute(sql).rowcount


def damages() -> Iterator[tuple[str, str, str]]:
    """Of each column of texts or bytes: what is no text, and what is not what it was."""
    script = Path("sagaz_lab/stores/sql/schema/sqlite.sql").read_text()
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(script)
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
                if kind in ("TEXT", "BLOB") and not table.startswith("sqlite_"):
                    for damage in ("bytes", kind):
                        yield table, column, DAMAGES[damage].format(column=column)


async def live_on(folder: Path) -> Life:
    """Everything that a user does with the file."""
    life = Life(folder)
    life.go.set()
    await life.lab.start()
    await life.lab.drain()
    for frame in FRAMES:
        life.lab.store.rows(frame, None)
    for frame in (life.lab.runs, life.lab.steps, life.lab.outcomes, life.lab.dead_letters, life.lab.events):
        frame()
    life.lab.dead_letters(by="cause")
    life.lab.revisions("flow")
    life.lab.why("e1")
    life.lab.status()
    await life.lab.store.heartbeat()
    await life.lab.stop()
    return life


def rows(folder: Path, table: str) -> int:
    with closing(sqlite3.connect(folder / "lab.db")) as connection:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count


@pytest.mark.parametrize(("table", "column", "value"), list(damages()))
async def test_a_damaged_row_concerns_nothing_else_and_can_be_seen(
    folder: Path, table: str, column: str, value: str
) -> None:
    key = NO_ROWID.get(table, "rowid")
    with suppress(sqlite3.IntegrityError):  # the file refuses it
        change(folder, f"UPDATE {table} SET {column} = {value} WHERE {key} = (SELECT {key} FROM {table} LIMIT 1)")
    change(folder, "UPDATE waiting_events SET at = at - 7200")  # the window is due
    before = rows(folder, "dead_letters")
    life = await live_on(folder)
    lost = {1, 2, 3, 4, 5, 6} - set(life.done)
    assert len(lost) <= 1
    if lost:
        assert life.reports
    waiting = {0, 1, 2}.difference(*life.windows)
    assert len(waiting) <= 1
    if column == "trigger" and waiting:
        assert [text for text in life.reports if "waiting_events" in text]
    else:
        assert len(waiting) == rows(folder, "dead_letters") - before


NO_ROWID = {"claims": "claim", "members": "claim", "cooldowns": "key", "loose_folders": "name", "counts": "reason",
            "revisions": "number", "positions": "name", "triggers": "name"}  # fmt: skip


@pytest.mark.parametrize("value", ["x'fffe00'", "CAST(trigger AS BLOB)", "'gone.on_events'"])
async def test_an_event_that_waits_for_no_known_trigger_is_reported_and_counted(folder: Path, value: str) -> None:
    change(folder, f"UPDATE waiting_events SET trigger = {value}, at = at - 7200")
    life = Life(folder)
    await life.lab.start()
    [report] = [text for text in life.reports if "waiting_events" in text]
    away = life.lab.status().away
    assert away is not None
    [(name, events)] = away.events_need_code.items()
    assert (events, name in report, name in "".join(away.lines())) == (3, True, True)
    assert "3 events waiting for code" in away.headline()
    await life.lab.stop(0)
    change(folder, "UPDATE waiting_events SET trigger = 'window.on_events'")
    assert (await live_on(folder)).windows == [[0, 1, 2]]


async def test_a_run_that_cannot_be_read_is_held_until_its_row_is_repaired(folder: Path) -> None:
    change(folder, "UPDATE runs SET context = context || 'x' WHERE seq = 2")
    life = await live_on(folder)
    assert (len(life.done), list(life.lab.runs()["status"]).count("held")) == (5, 1)
    [report] = [text for text in life.reports if "cannot be read" in text]
    assert "lab.resume_run" in report
    again = Life(folder)
    again.go.set()
    run_id = again.lab.runs().query("status == 'held'")["run_id"].iloc[0]
    assert "its context cannot be read" in again.lab.run(run_id).error
    with pytest.raises(Unreadable, match="its context cannot be read"):
        await again.lab.resume_run(run_id)
    change(folder, "UPDATE runs SET context = substr(context, 1, length(context) - 1) WHERE seq = 2")
    assert await again.lab.resume_run(run_id) == "completed"
    assert again.done == [2], "its first action is not run again: what it returned is in the journal"
    await again.lab.stop()


async def test_a_run_whose_id_is_no_text_is_held_and_goes_on_with_its_new_id(folder: Path) -> None:
    change(folder, "UPDATE runs SET run_id = x'fffe00' WHERE seq = 2")
    life = await live_on(folder)
    assert sorted(life.done) == [1, 3, 4, 5, 6]
    [report] = [text for text in life.reports if "cannot be read" in text]
    assert r"its id cannot be read (it is b'\xff\xfe\x00')" in report
    change(folder, "UPDATE runs SET run_id = 'mended' WHERE seq = 2")
    again = Life(folder)
    again.go.set()
    assert await again.lab.resume_run("mended") == "completed"
    assert again.done == [2]
    await again.lab.stop()


@pytest.mark.parametrize(("table", "column"), [("claims", "trigger"), ("claims", "claim"), ("claims", "run_id"),
                                               ("runs", "run_id"), ("waiting_events", "id"),
                                               ("kept_events", "run_id"), ("dead_letters", "run_id")])  # fmt: skip
async def test_each_event_has_its_answer_whatever_is_no_text(folder: Path, table: str, column: str) -> None:
    lab = Life(folder).lab
    ids = ["e1", "e6", "dead0", "h0"]
    before = {id: [(it.trigger, it.kind) for it in lab.why(id).outcomes] for id in ids}
    assert all(before.values())
    key = NO_ROWID.get(table, "rowid")
    change(folder, f"UPDATE {table} SET {column} = x'fffe00' WHERE {key} = (SELECT min({key}) FROM {table})")
    after = {id: [(it.trigger, it.kind) for it in lab.why(id).outcomes] for id in ids}
    lost = [id for id in ids if after[id] != before[id]]
    assert lost == (["h0"] if table == "waiting_events" else []), "only a waiting event is found by nothing but its id"
    await lab.stop()


@pytest.mark.parametrize("settled", ["redriven", "discarded"])
async def test_a_publication_whose_run_id_is_no_text_is_settled_with_the_others(folder: Path, settled: str) -> None:
    store = Life(folder).lab.store
    await store.open("test")
    await store.interrupted()
    rows = await store.publications(2)
    refused = [
        (number, dead_letter(f"d{n}", event=Event({}, id=it.id), run_id=it.run_id))
        for n, (number, it) in enumerate(rows)
    ]
    await store.park_refused(refused)
    change(folder, "UPDATE publications SET run_id = x'fffe00' WHERE seq = (SELECT min(seq) FROM publications)")
    assert set(await store.settle_refused(["d0", "d1"], settled, "")) == {"d0", "d1"}
    assert len(await store.publications(9)) == (2 if settled == "redriven" else 0)
    await store.close()


async def test_a_run_that_cannot_be_read_can_be_discarded(folder: Path) -> None:
    change(folder, "UPDATE runs SET context = 'x' WHERE seq = 2")
    life = await live_on(folder)
    run_id = life.lab.runs().query("status == 'held'")["run_id"].iloc[0]
    assert await life.lab.discard(run_id, "not worth it") == 1
    assert "discarded: not worth it" in life.lab.run(run_id).error
    await life.lab.stop()


async def test_a_waiting_event_whose_file_is_gone_leaves_its_window_until_the_file_is_back(folder: Path) -> None:
    [file] = (folder / "artifacts").glob("waiting-*/*")
    content, place = file.read_bytes(), file.parent
    shutil.rmtree(place)
    change(folder, "UPDATE waiting_events SET at = at - 7200")
    life = await live_on(folder)
    assert life.windows == [[0, 2]]
    letter = life.lab.dead_letters().query("event_id == 'h1'")["id"].iloc[0]
    again = Life(folder)
    assert await again.lab.redrive(letter) == [], "it stays open, and says why"
    assert any("stays open" in text for text in again.reports)
    place.mkdir()
    file.write_bytes(content)
    [outcome] = await again.lab.redrive(letter)
    assert (outcome.kind, outcome.event_id) == ("waiting", "h1")
    await again.lab.stop(0)


async def test_a_letter_whose_event_is_damaged_stays_open_and_can_be_put_right(folder: Path) -> None:
    change(folder, "UPDATE dead_letters SET event = substr(event, 1, length(event) - 1) WHERE seq = 1")
    life = Life(folder)
    life.go.set()
    letters = list(life.lab.dead_letters()["id"])[::-1]
    outcomes = await life.lab.redrive(letters)
    assert [outcome.event_id for outcome in outcomes] == ["dead1", "dead2"]
    [fixed] = await life.lab.redrive(letters[0], fix=lambda text: {"n": len(text)})
    assert (fixed.kind, fixed.event_id) == ("started", "dead0")
    await life.lab.drain()
    await life.lab.stop()


@pytest.mark.parametrize("claim", ["kept", "gone"])
@pytest.mark.parametrize("value", ["x'fffe00'", "''", "'}}garbage{{'", "CAST(id AS BLOB)"])
async def test_a_letter_whose_id_is_damaged_can_be_named_and_redriven(folder: Path, value: str, claim: str) -> None:
    before = Life(folder).lab.dead_letters().query("event_id == 'dead1'")["id"].iloc[0]
    change(folder, f"UPDATE dead_letters SET id = {value} WHERE event_id = 'dead1'")
    if claim == "gone":
        change(folder, "DELETE FROM claims WHERE kind = 'letter'")
    life = Life(folder)
    life.go.set()
    async with life.lab as lab:
        letter = lab.dead_letters().query("event_id == 'dead1'")["id"].iloc[0]
        assert letter == before or claim == "gone"
        [outcome] = await lab.redrive(letter, fix=lambda payload: {"n": 9})
        assert (outcome.kind, outcome.event_id) == ("started", "dead1")
        await lab.drain()
        assert 9 in life.done


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_bytes(b"z")], ids=["missing", "truncated"])
async def test_a_missing_or_truncated_file_concerns_the_run_whose_value_it_is(folder: Path, spoil: Any) -> None:
    [run] = [found for found in (folder / "artifacts").iterdir() if found.name.endswith("-1")]
    for file in run.iterdir():
        spoil(file)
    life = Life(folder)
    life.go.set()
    await life.lab.start()
    await life.lab.drain()
    assert sorted(life.done) == [1, 2, 3, 4, 5, 6], "nobody has asked for the value"
    with pytest.raises(StoreError, match="artifact"):
        life.lab.context(run.name)["blob"]
    await life.lab.stop()


@pytest.mark.parametrize("page", range(2, 40, 3))
async def test_a_damaged_page_is_one_line_that_says_what_to_do(folder: Path, page: int) -> None:
    with (folder / "lab.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    life = Life(folder)
    life.go.set()
    told: list[str] = []
    for step in (life.lab.start, life.lab.drain, life.lab.runs, life.lab.events, life.lab.steps, life.lab.stop):
        try:
            if (result := step()) is not None and hasattr(result, "__await__"):
                async with asyncio.timeout(10):
                    await result
        except StoreError as error:
            told.append(str(error))
        except TimeoutError:
            told += life.reports
    for line in told:
        assert "\n" not in line
        assert "damaged" not in line or ".recover" in line


NO_TIMES = ["x'fffe00'", "'yesterday'", "9e999", "1e300", "-9e999"]


@pytest.mark.parametrize("value", NO_TIMES)
@pytest.mark.parametrize("column", ["started_at", "ended_at"])
async def test_a_run_without_a_readable_time_does_not_keep_the_others_from_starting(
    folder: Path, column: str, value: str
) -> None:
    change(folder, f"UPDATE runs SET {column} = {value} WHERE seq = 2")
    change(folder, "UPDATE runs SET started_at = started_at + 86400 WHERE seq = 3")
    life = Life(folder)
    life.go.set()
    await life.lab.start()
    await life.lab.drain()
    assert {1, 3, 4, 5, 6} <= set(life.done)
    assert [text for text in life.reports if "the clock was ahead" in text and "1 claim(s)" in text]
    await life.lab.stop()


NO_NUMBERS = ["x'fffe00'", "''", "'many'", "1.5e300", "9e999"]
NUMBERS = [("runs", "revision", "revision"), ("runs", "attempt", "attempt"), ("runs", "started_at", "started_at"),
           ("runs", "ended_at", "ended_at"), ("dead_letters", "at", "at"), ("dead_letters", "attempts", "attempts"),
           ("dead_letters", "revision", "revision"), ("dead_letters", "redriven", "redriven"),
           ("kept_events", "at", ""), ("records", "at", ""), ("records", "attempt", ""), ("records", "trial", ""),
           ("revisions", "at", "")]  # fmt: skip


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize(("table", "column", "seen"), NUMBERS)
async def test_a_number_that_is_none_is_missing_in_its_row_of_the_tables(
    folder: Path, table: str, column: str, seen: str, value: str
) -> None:
    def tables(lab: Lab) -> dict[str, Any]:
        shown = (lab.runs, lab.steps, lab.outcomes, lab.dead_letters, lab.events)
        return {it.__name__: it() for it in shown} | {"causes": lab.dead_letters(by="cause")}

    lab = Life(folder).lab
    before = tables(lab)
    key = NO_ROWID.get(table, "rowid")
    change(folder, f"UPDATE {table} SET {column} = {value} WHERE {key} = (SELECT min({key}) FROM {table})")
    after = tables(lab)
    lab.revisions("flow")
    for name, table_before in before.items():
        assert len(after[name]) == len(table_before) or name == "steps"
    if seen:
        damaged, sound = after[table][seen], before[table][seen]
        assert damaged.dtype == sound.dtype
        assert list(damaged.iloc[:-1].dropna()) == list(sound.iloc[:-1].dropna())
        assert damaged.isna().iloc[-1]
    await lab.stop()
