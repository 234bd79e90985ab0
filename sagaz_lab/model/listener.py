"""Listeners: hooks that a saga's author may fill in."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sagaz_lab.errors import UnknownName, describe
from sagaz_lab.model.awaiting import awaited, is_awaitable, is_unread
from sagaz_lab.model.stopping import OwnTask

logger = logging.getLogger("sagaz_lab")
failures: Counter[str] = Counter()
"""Errors raised by listeners, by hook."""

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
    """Base class of listeners. Every hook is optional, and sync or async; its errors are logged and counted.

    `on_trigger_received(saga_name, event_source, event)`, `on_trigger_filtered(saga_name, event, reason)`,
    `on_trigger_dropped(saga_name, event, reason)`, `on_trigger_dead(saga_name, event, error)`,
    `on_saga_start(saga_name, run_id, ctx)`, `on_saga_complete(saga_name, run_id, ctx)`,
    `on_saga_failed(saga_name, run_id, ctx, error)`,
    `on_step_enter(saga_name, step_name, ctx)`, `on_step_success(saga_name, step_name, ctx, result)`,
    `on_step_failure(saga_name, step_name, ctx, error)`,
    `on_compensation_start(saga_name, step_name, ctx)`, `on_compensation_complete(saga_name, step_name, ctx)`,
    `on_compensation_failed(saga_name, step_name, ctx, error)`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            if name.startswith("on_") and name not in HOOKS:
                raise UnknownName(f"listener {cls.__qualname__}", "hook", name, HOOKS)


class OutboxSagaListener(SagaListener):
    """Publishes what becomes of the saga's runs to the topic "<saga_name>.events", as `ctx.publish` does.

    With every action that finished or failed for good, every compensation that did, and the end of each attempt, one
    event is kept in the same transaction: a JSON object with `type` ("action_finished", "action_failed",
    "action_cut_off", "compensation_finished", "compensation_failed", or "run_" and the run's status), `saga`, `run_id`,
    `revision`, `action` (null for the run's own), `attempt`, `at`, `event_id` and `error`; the run's own have
    `retry_at`, the time of the next attempt if there will be one. With `publish_step_events=False` only the run's own
    are published. `store` is best left out: any but the Lab's own raises `DefinitionError` when the saga is started.
    """

    def __init__(self, store: Any = None, publish_step_events: bool = True) -> None:
        self.store = store
        self.publish_step_events = publish_step_events


Hooks = Mapping[str, tuple[Callable[..., Any], ...]]
"""The hooks that a saga's listeners fill in, by name."""


def hooks_of(listeners: Iterable[SagaListener]) -> Hooks:
    found: dict[str, tuple[Callable[..., Any], ...]] = {}
    for listener in listeners:
        for name in HOOKS:
            if callable(hook := getattr(listener, name, None)):
                found[name] = (*found.get(name, ()), hook)
    return found


async def tell(hooks: Iterable[Callable[..., Any]], *facts: Any) -> None:
    """Call the hooks in turn. Their errors are logged and counted, never raised."""
    own_task = OwnTask() if hooks else None
    for hook in hooks:
        try:
            answer = hook(*facts)
            if is_awaitable(answer):
                answer = await awaited(answer)
            if is_unread(answer):
                raise TypeError("it returned a generator, so nothing of it has run")
        except BaseException as error:
            if own_task is not None and own_task.ends_by(error):
                raise
            failures[getattr(hook, "__name__", type(hook).__name__)] += 1
            name = getattr(hook, "__qualname__", type(hook).__qualname__)
            logger.error("listener %s failed: %s", name, describe(error), exc_info=error)
