"""The table of sources."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, sources, trigger
from sagaz_lab.abc import SourceTraits, Surroundings
from sagaz_lab.errors import DefinitionError, SourceNotReady, SourceUnavailable, UnknownName
from sagaz_lab.model import options
from sagaz_lab.model.options import KINDS
from sagaz_lab.model.trigger import source_spec
from sagaz_lab.sources import ADAPTERS, open_source
from sagaz_lab.sources.memory import MemorySource
from sagaz_lab.testing.clock import VirtualClock
from sagaz_lab.testing.sources import MemoryPositions
from tests.unit.tools import settle

EXAMPLES: dict[str, dict[str, Any]] = {
    "memory": {}, "recording": {"data": []}, "redis": {"stream": "s"}, "cron": {"schedule": "@daily"},
    "kafka": {"topic": "t"}, "rabbitmq": {"queue": "q"}, "pulsar": {"topic": "t"}, "sqs": {"queue_url": "http://q"},
    "webhook": {"path": "/hook"}, "file": {"path": "inbox"}, "custom": {"factory": lambda: None},
    "dead_letters": {},
}  # fmt: skip


@pytest.fixture
def here() -> Surroundings:
    return Surroundings(clock=VirtualClock(), positions=MemoryPositions(), group="lab-1")


def opened(here: Surroundings, kind: str, **settings: Any) -> Any:
    return open_source(source_spec("a trigger", kind, settings), here)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_can_be_defined_and_opens_or_says_why_not(kind: str, here: Surroundings) -> None:
    if kind in ADAPTERS:
        assert opened(here, kind, **EXAMPLES[kind]).name.startswith(kind)
    elif kind != "custom":
        with pytest.raises(SourceNotReady) as caught:
            opened(here, kind, **EXAMPLES[kind])
        assert str(caught.value) == f"source={kind!r} can be defined, but this version has no adapter to start it"


def test_no_library_is_imported_before_its_source_is_opened() -> None:
    code = "import sys, sagaz_lab.sources, sagaz_lab.history.recording; print({'redis', 'pandas'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def test_a_missing_library_is_named_with_its_cure(here: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "redis" or "sources.redis" in name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(SourceNotReady) as caught:
        opened(here, "redis", stream="s")
    assert str(caught.value) == "RedisSource needs redis: pip install 'sagaz-lab[redis]'"


def test_a_factory_gets_its_settings_as_keywords(here: Surroundings) -> None:
    def make(topic: str) -> MemorySource:
        return MemorySource(surroundings=here, topic=topic)

    assert opened(here, "custom", factory=make, settings={"topic": "t"}).name == "memory t"


async def _later() -> None: ...


@pytest.mark.parametrize(
    ("factory", "error", "why"),
    [
        (list, DefinitionError, "returned a list, which is not a Source: it has no receive, settle, nack, keep_alive"),
        (_later, DefinitionError, "is async"),
        (lambda: 1 / 0, SourceNotReady, "failed: ZeroDivisionError: division by zero"),
        (lambda topic: None, SourceNotReady, "missing 1 required positional argument: 'topic'"),
    ],
)
def test_a_factory_that_makes_no_source_is_one_clear_error(
    factory: Any, error: type[Exception], why: str, here: Surroundings
) -> None:
    with pytest.raises(error, match=why):
        opened(here, "custom", factory=factory)


def on_entry(self: Saga, event: Any) -> None: ...


MEMBERS = ("name", "traits", "receive", "settle", "nack", "keep_alive", "__aenter__", "__aexit__")


def lacking(member: str, value: Any = None) -> Any:
    """An object that has all of a Source but this member, or another value in its place."""

    async def verb(self: Any, *_: Any) -> None: ...

    members: dict[str, Any] = dict.fromkeys(MEMBERS, verb)
    members |= {"name": "lines", "traits": SourceTraits(), member: value}
    return type("Lines", (), members)()


LACKING: dict[str, Any] = {member: lacking(member) for member in MEMBERS if member != "traits"}
LACKING |= {"name (a text)": lacking("name", 5), "traits (a SourceTraits)": lacking("traits", {"finite": True}),
            "name": lacking("name", property(lambda self: 1 / 0))}  # fmt: skip


@pytest.mark.parametrize("member", LACKING)
def test_a_source_without_a_member_is_refused_when_the_trigger_is_defined(member: str) -> None:
    with pytest.raises(DefinitionError, match=rf"Lines object .* nor a Source: it has no {re.escape(member)}"):
        trigger(source=LACKING[member])(on_entry)


@pytest.mark.parametrize("member", LACKING)
async def test_a_maker_that_returns_an_object_without_a_member_is_named(member: str, here: Surroundings) -> None:
    with pytest.raises(
        DefinitionError, match=f"returned a Lines, which is not a Source: it has no {re.escape(member)}"
    ):
        opened(here, "custom", factory=lambda: LACKING[member])

    async with Lab("memory", sources={"redis": lambda settings, surroundings: LACKING[member]}) as lab:

        class Read(Saga):
            @trigger(source="redis", stream="s")
            def on_entry(self, event): ...

        why = f"sources\\['redis'\\] returned a Lines, which is not a Source: it has no {re.escape(member)}"
        with pytest.raises(DefinitionError, match=why):
            await lab.start()


def test_a_class_is_no_source_and_its_traits_are_checked() -> None:
    with pytest.raises(DefinitionError, match="it is a class, not an object of it"):
        trigger(source=MemorySource)(on_entry)
    with pytest.raises(DefinitionError, match="Lines'> are no SourceTraits"):
        trigger(source="custom", factory=type(LACKING["traits (a SourceTraits)"]))(on_entry)


def test_a_factory_may_say_that_it_is_unavailable(here: Surroundings) -> None:
    def make() -> None:
        raise SourceUnavailable("later")

    with pytest.raises(SourceUnavailable, match="later"):
        opened(here, "custom", factory=make)


def test_another_package_can_add_a_kind(here: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("ticker", "sagaz_lab.sources.memory:MemorySource", "sagaz_lab.sources")
    for module in (options, sources):
        monkeypatch.setattr(module, "third_party_kinds", lambda: {"ticker": point})
    assert opened(here, "ticker", topic="t").name == "memory t"
    with pytest.raises(SourceNotReady, match="unexpected keyword argument 'topik'"):
        opened(here, "ticker", topik="t")


def test_an_unknown_kind_names_the_nearest(here: Surroundings) -> None:
    with pytest.raises(UnknownName, match="did you mean 'redis'"):
        opened(here, "rediss")


async def test_the_memory_source_is_bounded(here: Surroundings) -> None:
    source = MemorySource(surroundings=here, capacity=2)
    await source.put(1)
    await source.put(2)
    with pytest.raises(asyncio.QueueFull):
        source.put_nowait(3)
    putting = asyncio.create_task(source.put(3))
    await settle()
    assert not putting.done()
    assert [delivery.event.payload for delivery in await source.receive(10)] == [1, 2]
    await putting
    assert [delivery.event.payload for delivery in await source.receive(10)] == [3]


async def test_only_made_ids_are_fresh(here: Surroundings) -> None:
    source = MemorySource(surroundings=here)
    await source.put(1)
    await source.put(2, id="given")
    made, given = await source.receive(10)
    assert (made.fresh, given.fresh, given.event.id) == (True, False, "given")


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("recording", {"path": "a.csv"}, "must be a path that ends in .parquet or .jsonl"),
        ("recording", {"path": "a.jsonl", "data": []}, "either path= or data="),
        ("redis", {"stream": "s", "url": "http://x"}, "must be an address such as redis://"),
        ("custom", {"factory": print, "settings": {1: 2}}, "must be a mapping with string keys"),
        ("cron", {"schedule": "0 0 31 2 *"}, "can never occur"),
    ],
)
def test_options_are_checked_when_they_are_written(kind: str, settings: Any, why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        source_spec("a trigger", kind, settings)


def test_equal_settings_share_one_identity() -> None:
    def identity(kind: str, **settings: Any) -> str:
        return source_spec("a trigger", kind, settings).identity

    url = "redis://:one@h"
    assert identity("redis", stream="s", url=url) == identity("redis", url=url, stream="s")
    assert identity("redis", stream="s", url=url) != identity("redis", stream="s", url="redis://:two@h")
    rows = [{"n": 1}]
    assert identity("recording", data=rows) == identity("recording", data=rows)
    assert identity("recording", data=rows) != identity("recording", data=[{"n": 2}])
    assert identity("custom", factory=print, settings={"topics": ["a"]}) == identity(
        "custom", factory=print, settings={"topics": ["a"]}
    )
