"""What runs print in the background goes to their logs, not into whichever cell runs; `%triggers tail` shows it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from sagaz_lab.errors import RunError
from sagaz_lab.lab import Lab
from sagaz_lab.model.step import Step, current_step
from sagaz_lab.runtime.logs import KEPT
from sagaz_lab.texts import printable

LINES = 50
"""Lines that `%triggers tail` shows unless told otherwise."""

_OWN = frozenset({"_routes", "_stream", "_write", "write"})


class Router:
    """A stream of the kernel, but for what an action or compensation of a background run writes: its log gets that.

    In the background is a run that a trigger started, or that a start took over from a dead process. One that a cell
    awaits - `await MySaga().run()`, `await lab.resume_run(...)` - prints into that cell. Trigger methods, listeners
    and threads that an action starts without a copy of its context belong to no step: theirs stays where it was.
    Everything else, and what is set, is the stream's own.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._routes = True
        self._write: Callable[[str], Any] | None = None

    @property
    def write(self) -> Callable[[str], Any]:
        """While a cell runs, the shell puts a function of its own here, to keep what the cell prints; the function
        calls the one that was here, so each goes on to the one before it, and in the background to none."""
        return partial(self._routed, self._write)

    @write.setter
    def write(self, write: Any) -> None:
        given_back = isinstance(write, partial) and write.func == self._routed
        self._write = write.args[0] if given_back else write

    def _routed(self, before: Callable[[str], Any] | None, text: str) -> Any:
        step = self._background()
        if step is None or not isinstance(text, str):
            return (before or self._stream.write)(text)
        step.run.write(step.name, str(getattr(self._stream, "name", "")), text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._background() is None:
            self._stream.flush()

    def _background(self) -> Step | None:
        step = current_step.get(None) if self._routes else None
        return None if step is None or step.run.foreground else step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self._stream, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        """Whoever asks `isinstance` hears of the stream."""
        return type(self._stream)


def route() -> Callable[[], None]:
    """Put a `Router` before `sys.stdout` and `sys.stderr`, where there is none. Returns what undoes this."""
    routers = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Router):
            routers[name] = Router(stream)
            setattr(sys, name, routers[name])
    _move_log(lambda stream: next((router for router in routers.values() if router._stream is stream), None))
    return partial(_unroute, routers)


def _unroute(routers: Mapping[str, Router]) -> None:
    for name, router in routers.items():
        router._routes = False  # somebody may have kept it
        if getattr(sys, name) is router:
            setattr(sys, name, router._stream)
    _move_log(lambda stream: next((router._stream for router in routers.values() if router is stream), None))


def _move_log(to: Callable[[Any], Any]) -> None:
    """Give other streams to what writes log records: it keeps the one that was there when it was made."""
    known = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    for logger in known:
        for writer in getattr(logger, "handlers", ()):
            if isinstance(writer, logging.StreamHandler) and (stream := to(writer.stream)) is not None:
                writer.setStream(stream)


def tail(lab: Lab, run_id: str | None, limit: int) -> str:
    """The last lines of one run's log, or of all logs. Raises `RunError` where there is none of this run."""
    logs = lab.logs()
    if run_id is None:
        lines = [_line(f"{run} {action}", text) for run, log in logs.items() for action, text in log[-limit:]]
        return "\n".join(lines[-limit:]) or "no run has written anything"
    if run_id not in logs:
        raise RunError(f"run {run_id!r} has no log; kept are those of live runs and of the last {KEPT} that ended")
    return "\n".join(_line(action, text) for action, text in logs[run_id][-limit:])


def _line(who: str, text: str) -> str:
    return f"{printable(who.rstrip())}: {text}" if who else text
