"""Listeners call their base class's hooks, and hooks that nobody fills in cost nothing."""

import pickle

import pytest

from sagaz_lab import Lab, OutboxSagaListener, Saga, SagaListener, action, compensate, trigger
from sagaz_lab.errors import ActionTimeout, DefinitionError, RunError
from sagaz_lab.model.listener import HOOKS, failures
from sagaz_lab.stores.memory.store import MemoryStore


class Sync(SagaListener):
    def __init__(self, seen):
        self.seen = seen


class Async(SagaListener):
    def __init__(self, seen):
        self.seen = seen


def _sync_hook(name):
    def hook(self, *facts):
        getattr(super(Sync, self), name)(*facts)
        self.seen.append(name)

    return hook


def _async_hook(name):
    async def hook(self, *facts):
        await getattr(super(Async, self), name)(*facts)
        self.seen.append(name)

    return hook


for hook_name in HOOKS:
    setattr(Sync, hook_name, _sync_hook(hook_name))
    setattr(Async, hook_name, _async_hook(hook_name))


@pytest.mark.parametrize("kind", [Sync, Async])
async def test_every_hook_may_call_the_one_of_its_base_class(lab: Lab, kind: type[SagaListener]) -> None:
    seen: list[str] = []
    failures.clear()

    class Heard(Saga):
        listeners = (kind(seen),)  # type: ignore[call-arg]

        @trigger(source="memory", topic="heard")
        def on_event(self, event):
            return None if event["skip"] else {"fails": event["fails"]}

        @action("work")
        async def work(self, ctx): ...

        @compensate("work")
        async def undo(self, ctx): ...

        @action("end", depends_on="work")
        async def end(self, ctx):
            if ctx["fails"]:
                raise ValueError("no")

    await lab.fire("Heard.on_event", {"skip": True})
    await lab.fire("Heard.on_event", {"skip": False, "fails": False})
    await lab.fire("Heard.on_event", {"skip": False, "fails": True})
    await lab.fire("Heard.on_event", {})
    await lab.drain()
    assert set(seen) == set(HOOKS) - {"on_trigger_dropped", "on_compensation_failed"}
    assert not failures


@pytest.mark.parametrize("name", HOOKS)
async def test_the_hooks_of_the_base_class_do_nothing_awaited_or_not(name: str) -> None:
    facts = [None] * (4 if name in ("on_saga_failed", "on_step_success", "on_step_failure") else 3)
    facts += [None] * (name == "on_compensation_failed")
    getattr(SagaListener(), name)(*facts)
    assert await getattr(SagaListener(), name)(*facts) is None


async def test_a_hook_that_nobody_fills_in_keeps_the_linear_path(lab: Lab) -> None:
    class Silent(SagaListener):
        pass

    class Quick(Saga):
        listeners = (Silent(), SagaListener())

        @action("work")
        async def work(self, ctx): ...

    definition = Quick.__definition__
    assert definition is not None
    assert dict(definition.hooks) == {}
    assert definition.plan.linear


async def test_a_hook_put_on_an_instance_counts(lab: Lab) -> None:
    listener = SagaListener()
    listener.on_saga_start = lambda *facts: None  # type: ignore[method-assign]

    class Started(Saga):
        listeners = (listener,)

    assert Started.__definition__ is not None
    assert list(Started.__definition__.hooks) == ["on_saga_start"]


async def test_an_outbox_listener_takes_the_labs_storage_by_name_or_place() -> None:
    own = MemoryStore()
    async with Lab(own):
        for listener in (OutboxSagaListener(own), OutboxSagaListener(storage=own), OutboxSagaListener(storage=None)):

            class Order(Saga):
                listeners = (listener,)

            await Order().run()

        class Foreign(Saga):
            listeners = (OutboxSagaListener(storage=MemoryStore()),)

        with pytest.raises(DefinitionError, match="storage="):
            await Foreign().run()


def test_an_action_timeout_is_a_timeout_error() -> None:
    error = ActionTimeout("train", 1.5)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, RunError)
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == "action 'train' took longer than 1.5 s"
