"""Listeners: hooks around events, runs and actions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sagaz_lab.errors import UnknownName, describe
from sagaz_lab.model.awaiting import is_awaitable, is_generator
from sagaz_lab.model.context import SagaContext
from sagaz_lab.model.event import Event, reader_of
from sagaz_lab.model.inside import inside_too
from sagaz_lab.model.publishing import PUBLISHED as NOTHING
from sagaz_lab.model.stopping import UserCode

logger = logging.getLogger("sagaz_lab")
failures: Counter[str] = Counter()
"""Listener errors by hook."""

HOOKS = (
    "on_trigger_received",
    "on_trigger_filtered",
    "on_trigger_dropped",
    "on_trigger_dead",
    "on_saga_start",
    "on_saga_complete",
    "on_saga_failed",
    "on_step_enter",
    "on_step_success",
    "on_step_failure",
    "on_compensation_start",
    "on_compensation_complete",
    "on_compensation_failed",
)


class SagaListener:
    """Base class of listeners. A subclass overrides the hooks it needs, sync or async.

    The base hooks do nothing, awaited or not, so a hook may call `super().on_saga_start(...)`. A hook's errors are
    logged and counted. Hooks that are not overridden cost nothing.
    """

    def on_trigger_received(self, saga_name: str, event_source: str, event: Event) -> Any:
        """A trigger of the saga received an event."""
        return NOTHING

    def on_trigger_filtered(self, saga_name: str, event: Event, reason: str) -> Any:
        """The trigger's method or a gate filtered the event."""
        return NOTHING

    def on_trigger_dropped(self, saga_name: str, event: Event, reason: str) -> Any:
        """The event was dropped because the queue was full."""
        return NOTHING

    def on_trigger_dead(self, saga_name: str, event: Event, error: str) -> Any:
        """The event could not be decided and became a dead letter."""
        return NOTHING

    def on_saga_start(self, saga_name: str, run_id: str, ctx: SagaContext) -> Any:
        """An attempt of a run begins; later attempts call it again."""
        return NOTHING

    def on_saga_complete(self, saga_name: str, run_id: str, ctx: SagaContext) -> Any:
        return NOTHING

    def on_saga_failed(self, saga_name: str, run_id: str, ctx: SagaContext, error: BaseException | None) -> Any:
        """An attempt ended without completing; `error` is None if it was cancelled."""
        return NOTHING

    def on_step_enter(self, saga_name: str, step_name: str, ctx: SagaContext) -> Any:
        return NOTHING

    def on_step_success(self, saga_name: str, step_name: str, ctx: SagaContext, result: Any) -> Any:
        return NOTHING

    def on_step_failure(self, saga_name: str, step_name: str, ctx: SagaContext, error: BaseException) -> Any:
        """An action failed after its last retry."""
        return NOTHING

    def on_compensation_start(self, saga_name: str, step_name: str, ctx: SagaContext) -> Any:
        return NOTHING

    def on_compensation_complete(self, saga_name: str, step_name: str, ctx: SagaContext) -> Any:
        return NOTHING

    def on_compensation_failed(self, saga_name: str, step_name: str, ctx: SagaContext, error: BaseException) -> Any:
        """A compensation failed after its last retry."""
        return NOTHING

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            if name.startswith("on_") and name not in HOOKS:
                raise UnknownName(f"listener {cls.__qualname__}", "hook", name, HOOKS)


class OutboxSagaListener(SagaListener):
    """Publishes the progress of the saga's runs to the topic "<saga_name>.events", as `ctx.publish` does.

    Each final end of an action or compensation and each end of an attempt stores one event in the same transaction: a
    JSON object with `type` ("action_finished", "action_failed", "action_cut_off", "compensation_finished",
    "compensation_failed", or "run_" and the run's status), `saga`, `run_id`, `revision`, `action` (null in events of
    the run), `attempt`, `at`, `event_id` and `error`. Events of the run also have `retry_at`, the time of the next
    attempt, if any. With `publish_step_events=False` only events of the run are published. Omit `storage`: any store
    but the Lab's raises `DefinitionError` when the saga is started.
    """

    def __init__(self, storage: Any = None, publish_step_events: bool = True) -> None:
        self.storage = storage
        self.publish_step_events = publish_step_events


Hooks = Mapping[str, tuple[Callable[..., Any], ...]]
"""The hooks that a saga's listeners override, by name."""


def hooks_of(listeners: Iterable[SagaListener]) -> Hooks:
    found: dict[str, tuple[Callable[..., Any], ...]] = {}
    for listener in listeners:
        for name in HOOKS:
            hook = getattr(listener, name, None)
            if callable(hook) and getattr(hook, "__func__", None) is not getattr(SagaListener, name):
                found[name] = (*found.get(name, ()), hook)
    return found


async def tell(hooks: Iterable[Callable[..., Any]], *facts: Any) -> None:
    """Call the hooks in turn. Their errors are logged and counted, never raised."""
    code = UserCode() if hooks else None
    run_id = next((fact.run_id for fact in facts if isinstance(fact, SagaContext)), "")
    for hook in hooks:
        name = getattr(hook, "__qualname__", type(hook).__qualname__)
        try:
            with inside_too(f"listener {name}", run_id):
                answer = hook(*[reader_of(fact) if type(fact) is Event else fact for fact in facts])
                if code is not None and is_awaitable(answer):
                    answer = await code.awaited(answer)
            if is_generator(answer):
                raise TypeError("it returned a generator, so none of its code has run")
        except BaseException as error:
            if code is not None and code.ends_by(error):
                raise
            failures[getattr(hook, "__name__", type(hook).__name__)] += 1
            logger.error("listener %s failed: %s", name, describe(error), exc_info=error)
    if code is not None:
        await code.withdraw()
