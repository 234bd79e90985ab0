"""Whatever a user's function returns is awaited where it can be: nothing counts as done that never ran."""

import asyncio
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from sagaz_lab import Lab, OutcomeKind, Saga, SagaListener, TriggerConfig, action, compensate, forward_recovery, trigger
from sagaz_lab.errors import ActionTimeout, CompensationFailed
from sagaz_lab.model.awaiting import at_once
from tests.unit.tools import statuses

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that knows nothing of coroutines."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    return call


def forgetful(function: Callable[..., Any]) -> Callable[..., Any]:
    """`async def` around a call that it does not await."""

    @functools.wraps(function)
    async def call(*args: Any) -> Any:
        return function(*args)

    return call


def as_task(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*args: Any) -> Any:
        return asyncio.ensure_future(function(*args))

    return call


class Later:
    """An awaitable that is no coroutine."""

    def __init__(self, coroutine: Any) -> None:
        self.coroutine = coroutine

    def __await__(self) -> Any:
        return self.coroutine.__await__()


def as_object(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(function)(lambda *args: Later(function(*args)))


def twice(function: Callable[..., Any]) -> Callable[..., Any]:
    return forgetful(forgetful(function))


class Value:
    def __init__(self, text: str) -> None:
        self.text = text


class Text:
    """A codec whose methods are async."""

    async def dump(self, value: Value, path: Any) -> None:
        path.write_text(value.text)

    async def load(self, path: Any) -> Value:
        return Value(path.read_text())


@pytest.fixture(params=[timed, forgetful, as_task, as_object, twice])
def hidden(request: pytest.FixtureRequest) -> Wrap:
    """Each way to hide a coroutine."""
    wrap: Wrap = request.param
    return wrap


async def test_a_hidden_coroutine_of_an_action_and_of_a_compensation_runs(each_lab: Lab, hidden: Wrap) -> None:
    done = []

    class Order(Saga):
        @action("reserve")
        @hidden
        async def reserve(self, ctx):
            await asyncio.sleep(0)
            done.append(ctx.idempotency_key.rpartition("/")[2])
            return {"seat": 7}

        @compensate("reserve")
        @hidden
        async def release(self, ctx, result):
            await asyncio.sleep(0)
            done.append(f"released {result['seat']}")

        @action("pay", depends_on="reserve")
        async def pay(self, ctx):
            raise ValueError(ctx["seat"])

    with pytest.raises(ValueError, match="7"):
        await Order().run()
    assert done == ["reserve", "released 7"]
    assert statuses(each_lab) == ["compensated"]


async def test_a_hidden_coroutine_that_fails_fails_its_action(lab: Lab, hidden: Wrap) -> None:
    class Order(Saga):
        @action("pay")
        @hidden
        async def pay(self, ctx):
            raise ValueError("declined")

    with pytest.raises(ValueError, match="declined"):
        await Order().run()


async def test_a_time_out_covers_a_hidden_coroutine(lab: Lab, hidden: Wrap) -> None:
    class Order(Saga):
        @action("pay", timeout_s=0.05)
        @hidden
        async def pay(self, ctx):
            await asyncio.sleep(3600)

    with pytest.raises(ActionTimeout):
        await Order().run()


async def test_a_stream_gives_what_its_awaitable_records_give(lab: Lab) -> None:
    async def fetch(n: int) -> int:
        return n

    class Rows(Saga):
        @action("read")
        async def read(self, ctx):
            yield fetch(1)
            yield 2

        @action("add", depends_on="read")
        async def add(self, ctx):
            return {"sum": sum([row async for row in ctx.stream("read")])}

    assert (await Rows().run())["sum"] == 3


async def test_a_hidden_coroutine_of_a_forward_recovery_decides(lab: Lab, hidden: Wrap) -> None:
    class Order(Saga):
        @action("pay", pivot=True)
        async def pay(self, ctx): ...

        @action("ship", depends_on="pay")
        async def ship(self, ctx):
            raise ValueError("no van")

        @forward_recovery("ship")
        @hidden
        async def without_van(self, ctx, error):
            return "skip"

    await Order().run()
    assert statuses(lab) == ["completed"]


async def test_a_hidden_coroutine_of_a_listener_runs(lab: Lab, hidden: Wrap) -> None:
    seen = []

    class Notes(SagaListener):
        @hidden
        async def on_saga_complete(self, saga_name, run_id, ctx):
            seen.append(saga_name)

    class Noted(Saga):
        listeners = (Notes(),)

    await Noted().run()
    assert seen == ["Noted"]


async def test_a_hidden_coroutine_of_a_trigger_method_decides(each_lab: Lab, hidden: Wrap) -> None:
    class Drift(Saga):
        @trigger(source="memory", topic="drift")
        @hidden
        async def on_drift(self, event):
            await asyncio.sleep(0)
            return {"score": event["score"]} if event["score"] > 0.5 else None

        @action("train")
        async def train(self, ctx): ...

    (low,) = await each_lab.fire("Drift.on_drift", {"score": 0.1})
    (high,) = await each_lab.fire("Drift.on_drift", {"score": 0.9})
    await each_lab.drain()
    assert [low.kind, high.kind] == [OutcomeKind.FILTERED, OutcomeKind.STARTED]
    assert each_lab.context(high.run_id or "")["score"] == 0.9


async def test_an_async_decode_is_awaited(each_lab: Lab, hidden: Wrap) -> None:
    @hidden
    async def decode(raw):
        await asyncio.sleep(0)
        return json.loads(raw)

    class Read(Saga):
        @trigger(source="memory", topic="reads", decode=decode)
        def on_read(self, event):
            return {"n": event["n"]}

    (read,) = await each_lab.fire("Read.on_read", b'{"n": 4}')
    (broken,) = await each_lab.fire("Read.on_read", b"{")
    assert [read.kind, broken.kind] == [OutcomeKind.STARTED, OutcomeKind.DEAD]
    assert "decode= failed" in broken.reason


@pytest.mark.parametrize("option", ["idempotency_key", "concurrency_key"])
async def test_an_async_key_function_gives_its_key_at_once_or_an_error(lab: Lab, option: str) -> None:
    async def key(event):
        await asyncio.sleep(0 if event["quick"] else 3600)
        return event["id"]

    class Keyed(Saga):
        @trigger(source="memory", topic="keyed", **{option: key})
        def on_keyed(self, event):
            return {}

    (quick,) = await lab.fire("Keyed.on_keyed", {"id": "a", "quick": True})
    (slow,) = await lab.fire("Keyed.on_keyed", {"id": "b", "quick": False})
    assert [quick.kind, slow.kind] == [OutcomeKind.STARTED, OutcomeKind.DEAD]
    assert f"{option}= returned an awaitable that waits" in slow.reason


async def test_an_async_fix_mends_what_is_redriven(lab: Lab) -> None:
    async def fix(payload):
        await asyncio.sleep(0)
        return {**payload, "ok": True}

    class Mended(Saga):
        trigger_config = TriggerConfig(max_retries=0)

        @trigger(source="memory", topic="mended")
        def on_mended(self, event):
            return {"ok": event["ok"]}

    await lab.fire("Mended.on_mended", {"n": 1})
    (again,) = await lab.redrive(list(lab.dead_letters()["id"]), fix=fix)
    assert again.kind is OutcomeKind.STARTED


async def test_an_async_listener_to_reports_hears_of_them(lab: Lab) -> None:
    heard = asyncio.Event()

    async def listen(kind, text):
        heard.set()

    lab.on_report(listen)
    lab.report("test", "a problem")
    async with asyncio.timeout(20):
        await heard.wait()


async def test_an_async_codec_writes_its_file(each_lab: Lab) -> None:
    class Stored(Saga):
        @action("make", codec=Text())
        async def make(self, ctx):
            return Value("kept")

    ctx = await Stored().run()
    assert each_lab.context(ctx.run_id)["make"].text == "kept"


async def test_a_compensation_that_returns_a_generator_has_not_undone_anything(lab: Lab) -> None:
    class Order(Saga):
        @action("reserve")
        async def reserve(self, ctx): ...

        @compensate("reserve", max_retries=0)
        def release(self, ctx):
            return (print(seat) for seat in range(3))

        @action("pay", depends_on="reserve")
        async def pay(self, ctx):
            raise ValueError("declined")

    with pytest.raises(CompensationFailed, match="returned a generator"):
        await Order().run()
    assert statuses(lab) == ["compensation_failed"]


def test_what_is_at_once_is_so_without_a_loop() -> None:
    async def seven():
        await asyncio.sleep(0)
        return 7

    assert at_once(seven(), "it") == at_once(7, "it") == 7
