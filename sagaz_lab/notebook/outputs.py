"""Sends the output of background runs to their logs instead of the current cell; `%triggers tail` shows it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from threading import local
from typing import Any

from sagaz_lab.errors import RunError
from sagaz_lab.lab import Lab
from sagaz_lab.model.log import LogLine
from sagaz_lab.model.step import Step, current_step
from sagaz_lab.notebook.run_output import as_text

LINES = 50
"""Default number of lines of `%triggers tail`."""

RECENT = 20
"""Stored runs whose logs are shown while this kernel has none."""

_OWN = frozenset({"_routes", "_stream", "_write", "write"})


def in_background() -> Step | None:
    """The current step, if its run is a background run."""
    step = current_step.get(None)
    return None if step is None or step.run.foreground else step


class Router:
    """Wraps a stream of the kernel and sends writes from steps of background runs to the run's log.

    Background runs are those that a trigger started or that a start took over from a crashed process. A run that a
    cell awaits, as in `await MySaga().run()` or `await lab.resume_run(...)`, prints into that cell. Trigger methods,
    listeners, and threads started without a copy of the action's context belong to no step and write to the stream.
    All other attributes are the stream's.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._routes = True
        self._write: Callable[[str], Any] | None = None

    @property
    def write(self) -> Callable[[str], Any]:
        """During a cell the shell replaces this with a function that captures the cell's output and calls the previous
        one. So each function calls its predecessor; in the background none is called."""
        return partial(self._routed, self._write)

    @write.setter
    def write(self, write: Any) -> None:
        given_back = isinstance(write, partial) and write.func == self._routed
        self._write = write.args[0] if given_back else write

    def _routed(self, before: Callable[[str], Any] | None, text: str) -> Any:
        step = self._background()
        if step is None or not isinstance(text, str):
            return (before or self._stream.write)(text)
        step.run.write(step.name, str(getattr(self._stream, "name", "")), text, _level_of(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._background() is None:
            self._stream.flush()

    def _background(self) -> Step | None:
        return in_background() if self._routes else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self._stream, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        """Makes `isinstance` see the stream's class."""
        return type(self._stream)


class _Level(local):
    """This thread's last `logging` record, which may be the next output."""

    record: logging.LogRecord | None = None

    def make(self, before: Callable[..., logging.LogRecord], *args: Any, **options: Any) -> logging.LogRecord:
        self.record = before(*args, **options)
        return self.record


_level = _Level()


def _level_of(text: str) -> str | None:
    """The level of the record printed with this text; None if it is not a record."""
    record, _level.record = _level.record, None
    try:
        return record.levelname if record is not None and record.getMessage() in text else None
    except Exception:  # noqa: BLE001  `logging` itself reports arguments that do not fit
        return None


def route() -> Callable[[], None]:
    """Wrap `sys.stdout` and `sys.stderr` in a `Router`, once. Returns a function that undoes it."""
    routers = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Router):
            routers[name] = Router(stream)
            setattr(sys, name, routers[name])
    _move_log(lambda stream: next((router for router in routers.values() if router._stream is stream), None))
    before = logging.getLogRecordFactory()
    making = partial(_level.make, before)
    logging.setLogRecordFactory(making)
    return partial(_unroute, routers, making, before)


def _unroute(routers: Mapping[str, Router], making: Any, before: Any) -> None:
    if logging.getLogRecordFactory() is making:
        logging.setLogRecordFactory(before)
    for name, router in routers.items():
        router._routes = False  # references to it may remain
        if getattr(sys, name) is router:
            setattr(sys, name, router._stream)
    _move_log(lambda stream: next((router._stream for router in routers.values() if router is stream), None))


def _move_log(to: Callable[[Any], Any]) -> None:
    """Replace the streams of logging handlers, which keep the one they were created with."""
    known = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    for logger in known:
        for writer in getattr(logger, "handlers", ()):
            if isinstance(writer, logging.StreamHandler) and (stream := to(writer.stream)) is not None:
                writer.setStream(stream)


def tail(lab: Lab, run_id: str | None, limit: int) -> str:
    """The last lines of one run's log, or of all logs. Raises `RunError` if the run has none."""
    if run_id is None:
        logs: Mapping[str, Sequence[LogLine]] = lab.logs() or {run: lab.run(run).log for run in _newest(lab)}
        lines = [as_text(f"{run} {one[0]}", one) for run, log in logs.items() for one in log[-limit:]]
        return "\n".join(lines[-limit:]) or "no run has any output"
    log = log_of(lab, run_id)
    return "\n".join(as_text(one[0], one) for one in log[-limit:])


def log_of(lab: Lab, run_id: str) -> Sequence[LogLine]:
    """The log of a run, from memory or the store. Raises `RunError` if there is none."""
    log: Sequence[LogLine] = lab.logs().get(run_id) or lab.run(run_id).log
    if not log:
        raise RunError(f"run {run_id!r} has no log: it had no output")
    return log


def _newest(lab: Lab) -> list[str]:
    """The newest stored runs, oldest first."""
    columns, rows = lab.store.rows("runs", RECENT)
    return [row[columns.index("run_id")] for row in reversed(rows)]
