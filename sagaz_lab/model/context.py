"""The context that the actions of a run share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from sagaz_lab.errors import RunError
from sagaz_lab.model.event import Event, reader_of
from sagaz_lab.model.log import RunLog
from sagaz_lab.model.publishing import PUBLISHED, Published, to_json
from sagaz_lab.model.step import ActionProgress, Step, current_step

_new_dict = dict.__new__


class SagaContext(dict[str, Any]):
    """A `dict` of the results of a run's actions, with the facts of the run.

    A mapping that an action returns is merged into it; any other value is stored under the action's name. Values may
    go beyond JSON: tables, arrays, models (see `codec=`). `changed` holds the keys set since the journal last asked.
    """

    __slots__ = ("_own", "changed", "log_lines", "run_id", "sent")

    def __init__(
        self,
        values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        run_id: str = "",
        event: Event | None = None,
    ) -> None:
        dict.__init__(self, values)
        self.run_id = run_id
        self.sent = event
        self._own: Event | None = None
        self.log_lines: RunLog | None = None
        self.changed: set[str] | None = None

    @property
    def event(self) -> Event | None:
        """The event that started the run, with this attempt's own copy of the payload. `sent` is the original."""
        if self._own is None and self.sent is not None:
            self._own = reader_of(self.sent)
        return self._own

    def forget_event(self) -> None:
        """Give the next reader a fresh copy of the payload."""
        self._own = None

    @property
    def idempotency_key(self) -> str:
        """Stable per attempt and action, also after a crash; pass it to the services you call."""
        return self._step().idempotency_key

    @property
    def cancelled(self) -> bool:
        """True once the calling action should return: it timed out or the run is being cancelled."""
        step = current_step.get(None)
        return step is not None and step.cancelled

    def set(self, key: str, value: Any) -> None:
        """The same as `ctx[key] = value`."""
        self[key] = value

    def has(self, key: str) -> bool:
        """The same as `key in ctx`."""
        return key in self

    def stream(self, name: str) -> AsyncIterator[Any]:
        """The records of the action `name` from this action's `depends_on`, or of an iterable in the context."""
        return self._step().stream(name)

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Report the action's progress: `done` of `total`, in any unit."""
        self._step().progress = ActionProgress(done, total, note)

    def publish(self, topic: str, payload: Any) -> Published:
        """Publish JSON to `topic` of the broker that the run's trigger reads from, once the action has succeeded.

        Without a broker, `source="memory"` triggers with this topic receive it. It is stored in the same transaction
        as the action's success and published at least once, always with the same id; a failed trial publishes
        nothing. `await` it, or just call it in a plain `def`. Limit: 1,000 per action. Raises `RunError` outside a
        running action or compensation, `UnstorableValue` if the payload is not JSON.
        """
        step = self._step()
        if not (isinstance(topic, str) and topic and topic.isprintable()):
            raise RunError(f"{step.name}: ctx.publish(topic={topic!r}): the topic must be a name")
        step.publish(topic, to_json(payload, step.name, topic))
        return PUBLISHED

    def log(self, *values: object, level: str = "INFO") -> None:
        """Write a line to the run's log, which keeps the last 1,000 lines with time and level."""
        step = current_step.get(None)
        if self.log_lines is None:
            self.log_lines = RunLog()
        self.log_lines.add(step.name if step else "", " ".join(map(str, values)), level)

    def take_changes(self) -> dict[str, Any] | None:
        """The values set since the last call; changes inside a value go unnoticed."""
        changed, self.changed = self.changed, None
        return {key: self[key] for key in changed if key in self} if changed else None

    def __setitem__(self, key: str, value: Any) -> None:
        dict.__setitem__(self, key, value)
        if self.changed is None:
            self.changed = set()
        self.changed.add(key)
        if (step := current_step.get(None)) is not None and step.before is not None:
            step.before.sets.add(key)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def __ior__(self, other: Any) -> SagaContext:  # type: ignore[override, misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.run_id, self.sent)

    def _step(self) -> Step:
        step = current_step.get(None)
        if step is None:
            raise RunError(
                "only a running action or compensation can use this; "
                "in your own thread, run it with contextvars.copy_context().run(...)"
            )
        return step


def fresh_context(values: Mapping[str, Any], run_id: str, event: Event | None) -> SagaContext:
    """`SagaContext(...)` at half the cost."""
    ctx = _new_dict(SagaContext)
    dict.update(ctx, values)
    ctx.run_id = run_id
    ctx.sent = event
    ctx._own = ctx.log_lines = ctx.changed = None
    return ctx
