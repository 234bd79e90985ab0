"""`%triggers` and `%%saga`: a thin layer over the Lab. A mistake is one line, not a traceback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from inspect import iscoroutine
from typing import Any, cast

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import needs_local_scope, no_var_expand

from sagaz_lab.errors import SagazLabError, UnknownName
from sagaz_lab.hosting.handle import Handle
from sagaz_lab.hosting.views import open_letters
from sagaz_lab.lab import Lab
from sagaz_lab.model.run import RunStatus
from sagaz_lab.notebook.commands import (
    COMMANDS,
    Line,
    awaits,
    mistake,
    number,
    one_of,
    overview,
    read,
    read_firing,
    read_param,
    split,
    without_semicolon,
)
from sagaz_lab.notebook.expansion import expand
from sagaz_lab.notebook.outputs import LINES, tail
from sagaz_lab.notebook.registration import Registration
from sagaz_lab.notebook.reports import CellReports
from sagaz_lab.notebook.waiting import Until, Watch, wait
from sagaz_lab.notebook.wrapped import TIMED, Stopwatch, refusal
from sagaz_lab.runtime.recovery.start_report import RESUME

BEGUN_S = 1.0
"""A start that takes longer, as with an unreachable broker, continues after the cell has returned."""

SAGA_OPTIONS = ("--quiet", "--shadow")


class Magics:
    """The magics of one shell and its Lab."""

    def __init__(self, shell: InteractiveShell, lab: Lab, registration: Registration, reports: CellReports) -> None:
        self._shell = shell
        self._lab = lab
        self._registration = registration
        self._reports = reports
        self._watch = Watch(lab)
        self._handle: Handle | None = None
        self.is_loading = False
        """Whether the cell that loaded the extension still runs: it was parsed without our transformers."""

    @no_var_expand
    def saga(self, line: str, cell: str) -> None:
        """Make this cell's sagas current once the cell has succeeded, and show what changed.

            %%saga [--quiet] [--shadow]
            class ModelRetraining(Saga):
                ...

        The cell is an ordinary cell: it may import, define helpers, `await`. If it fails, nothing is registered.
        `--quiet` shows one line instead of the card. With `--shadow` the sagas do not become current: they decide new
        events alongside the current revision and run no action; `%triggers shadow` shows the differences.
        """
        for word in line.split():
            if word not in SAGA_OPTIONS:
                raise UsageError(str(UnknownName("%%saga", "option", word, SAGA_OPTIONS)))
        if cell.strip():  # not through the transformer: an exported script
            cast(Any, self._shell).run_cell(f"%%saga {line}\n{cell}")
        else:
            words = line.split()
            self._registration.announce(quiet="--quiet" in words, shadow="--shadow" in words)

    @no_var_expand
    @needs_local_scope
    def triggers(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        said, line = line, without_semicolon(line)
        quiet = line != said
        if self.is_loading and awaits(line):
            raise UsageError("%triggers: put %load_ext sagaz_lab into a separate cell before this one")
        if line.partition(" ")[0] == TIMED:
            return self._timed(line.split(maxsplit=1)[1:], quiet, local_ns)
        command, rest = split(line)
        with self._in_one_line(command.name):
            namespace = {**self._shell.user_ns, **(local_ns or {})}
            if command.name in ("fire", "preview"):
                result: Any = self._fire(command.name, rest, namespace)
            else:
                acts: Mapping[str, Callable[[Line], Any]] = {
                    "start": self._start, "stop": self._stop, "pause": self._pause, "resume": self._resume,
                    "status": self._status, "wait": self._wait, "why": self._why, "runs": self._runs,
                    "resume-run": self._resume_run, "compensate-run": self._compensate_run, "tail": self._tail,
                    "dlq": self._dlq, "forget": self._forget, "params": self._params, "help": self._help,
                    "dashboard": self._dashboard, "limits": self._limits, "shadow": self._shadow,
                    "remove": self._remove, "use": self._use,
                }  # fmt: skip
                result = acts[command.name](read(command, expand(command.name, rest, namespace)))
        if iscoroutine(result):
            return self._awaited(command.name, result, quiet)
        return None if quiet else result

    triggers.__doc__ = overview()

    def _timed(self, rest: list[str], quiet: bool, local_ns: Mapping[str, Any] | None) -> Any:
        """Handles rewritten `%%time` and `%time`."""
        if not rest:
            return self._registration.time_cell()
        if (refused := refusal(rest[0])) is not None:
            raise UsageError(refused)
        watch = Stopwatch.start()
        result = self.triggers(f"{rest[0]}{';' if quiet else ''}", local_ns)

        async def to_its_end() -> Any:
            try:
                return await result
            finally:
                print(watch)

        return to_its_end()

    async def _awaited(self, command: str, result: Coroutine[Any, Any, Any], quiet: bool) -> Any:
        with self._in_one_line(command):
            try:
                value = await (result if command == "wait" else _to_its_end(result))
            except asyncio.CancelledError:  # a new error, so that its traceback omits our internals
                goes_on = "the triggers keep running" if command == "wait" else f"{command} continues"
                raise asyncio.CancelledError(f"interrupted; {goes_on}") from None
        return None if quiet else value

    @contextmanager
    def _in_one_line(self, command: str) -> Iterator[None]:
        try:
            yield
        except SagazLabError as error:
            told = " ".join(str(error).split()).removeprefix(f"{command}: ")
            if isinstance(error, UnknownName) and self._registration.unfinished():
                told += "; the sagas of this cell are registered when it succeeds"
            raise UsageError(f"%triggers {command}: {told}") from None

    # --- the sub-commands ---

    def _start(self, line: Line) -> Any:
        isolated = "--isolated" in line.options
        if not isolated and not hasattr(self._shell, "kernel"):
            told = "a terminal's event loop runs only during a cell; use Jupyter, or %triggers start --isolated"
            raise mistake("start", told)
        resume = one_of("start", "--resume", line.options.get("--resume", "all"), RESUME)
        hold = "--hold" in line.options
        handle = self._lab.start(line.words or None, hold=hold, resume=resume, isolated=isolated,
                                 fresh="--fresh" in line.options)  # fmt: skip
        self._reports.attach_to_cell()
        return self._begun(handle)

    async def _begun(self, handle: Handle) -> Handle:
        """Wait briefly for the start. An early failure fails the cell; a later one is reported."""
        await handle.begun(BEGUN_S)
        self._handle = handle
        return handle

    def _stop(self, line: Line) -> Awaitable[None]:
        if "--grace" in line.options:
            return self._lab.stop(grace_s=number("stop", "--grace", line.options["--grace"]))
        return self._lab.stop()

    def _pause(self, line: Line) -> None:
        self._lab.pause(_first(line))

    def _resume(self, line: Line) -> None:
        self._lab.resume(_first(line))

    def _status(self, line: Line) -> Any:
        return self._lab.status()

    def _dashboard(self, line: Line) -> Any:
        return self._lab.dashboard()

    def _fire(self, command: str, rest: str, namespace: Mapping[str, Any]) -> Awaitable[Any]:
        firing = read_firing(COMMANDS[command], rest, namespace, expand)
        if command == "preview":
            if firing.where:
                raise mistake(command, f"takes a trigger's name and a payload, not {next(iter(firing.where))}=")
            return self._lab.preview(firing.name, firing.payload)
        if taken := {"target", "payload", "id", "wait"} & firing.where.keys():
            raise mistake(command, f"{taken.pop()}= is not a setting of a source; give an id as --id ID")
        return self._lab.fire(firing.name, firing.payload, id=firing.options.get("--id"),
                              wait="--no-wait" not in firing.options, **firing.where)  # fmt: skip

    def _wait(self, line: Line) -> Awaitable[None]:
        until = Until.of(line.words)
        timeout_s = number("wait", "--timeout", line.options["--timeout"]) if "--timeout" in line.options else None
        return wait(self._lab, self._handle, self._watch, self._reports, until, timeout_s)

    def _why(self, line: Line) -> Any:
        return self._lab.why(_first(line))

    def _runs(self, line: Line) -> Any:
        limit = int(number("runs", "--limit", line.options.get("--limit", "10000")))
        if "--status" not in line.options:
            return self._lab.runs(limit=limit)
        status = one_of("runs", "status", line.options["--status"], map(str, RunStatus))
        runs = self._lab.runs(limit=None)
        return runs[runs["status"] == status].head(limit).reset_index(drop=True)

    async def _resume_run(self, line: Line) -> RunStatus:
        return self._with_error(_first(line), await self._lab.resume_run(_first(line), line.options.get("--from")))

    async def _compensate_run(self, line: Line) -> RunStatus:
        return self._with_error(_first(line), await self._lab.compensate_run(_first(line)))

    def _with_error(self, run_id: str, status: RunStatus) -> RunStatus:
        """Print the error here too: the cell that started the triggers may be far away."""
        if status is not RunStatus.COMPLETED and (error := self._lab.run(run_id).error):
            print(f"run {run_id} {status}: {error}", file=sys.stderr)
        return status

    def _tail(self, line: Line) -> None:
        limit = max(1, int(number("tail", "--lines", line.options.get("--lines", str(LINES)))))
        print(tail(self._lab, line.words[0] if line.words else None, limit))

    def _dlq(self, line: Line) -> Any:
        if not line.words:
            by = line.options.get("--by")
            limit = int(number("dlq", "--limit", line.options.get("--limit", "10000")))
            if by is not None and "--before" in line.options:
                raise mistake("dlq", "--before does not go with --by cause")
            by = one_of("dlq", "--by", by, ["cause"]) if by else None
            return self._lab.dead_letters(by=by, limit=limit, before=line.options.get("--before"))
        what, *rest = line.words
        one_of("dlq", "sub-command", what, COMMANDS["dlq"].words)
        if line.options:
            raise mistake("dlq", f"{next(iter(line.options))} does not go with {what}")
        if not rest:
            raise mistake("dlq", f"ids are missing; usage: {COMMANDS['dlq'].usage}")
        if what == "redrive":
            return self._lab.redrive(self._letters(rest))
        if len(rest) < 2:
            raise mistake("dlq", "discard takes the ids, separated by commas, then the reason")
        return self._lab.discard(self._letters(rest[:1]), " ".join(rest[1:]))

    def _letters(self, words: list[str]) -> list[str]:
        if words == ["all"]:
            return open_letters(self._lab.store)
        return [one for word in words for one in word.split(",") if one]

    async def _forget(self, line: Line) -> int:
        return await self._lab.forget(_first(line), line.words[1] if len(line.words) > 1 else None)

    async def _params(self, line: Line) -> Any:
        trigger = _first(line)
        if len(line.words) > 1:
            now = await self._lab.params(trigger)
            await self._lab.set_params(trigger, **dict(read_param("params", word, now) for word in line.words[1:]))
        return await self._lab.params(trigger, history="--history" in line.options)

    async def _limits(self, line: Line) -> Any:
        trigger = _first(line)
        now = await self._lab.set_limits(trigger)
        return await self._lab.set_limits(trigger, **dict(read_param("limits", word, now) for word in line.words[1:]))

    def _shadow(self, line: Line) -> Any:
        shadows = self._lab.shadows
        name = line.words[0] if line.words else next(iter(shadows), "") if len(shadows) == 1 else ""
        if "--end" not in line.options:
            return shadows[name] if name else shadows
        if not name:
            raise mistake("shadow", f"--end needs a saga with a shadow; there are: {', '.join(shadows) or 'none'}")
        return shadows.end(name)

    def _remove(self, line: Line) -> None:
        saga = one_of("remove", "saga", _first(line), self._lab.sagas)
        self._lab.unregister(saga)
        live = sum(run.saga == saga for run in self._lab.status().runs)
        print(f"saga {saga} removed{f'; {live} live runs will finish' if live else ''}")

    async def _use(self, line: Line) -> None:
        await self._lab.use(_first(line))
        self._watch = Watch(self._lab)
        print(f"the store is now {self._lab.store.url}; no trigger is started")

    def _help(self, line: Line) -> None:
        name = line.words[0] if line.words else ""
        print(COMMANDS[one_of("help", "sub-command", name, COMMANDS)].help() if name else overview())


async def _to_its_end(work: Coroutine[Any, Any, Any]) -> Any:
    """Interrupting the cell cancels the waiting, not the work: no event is left half decided."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)


def _first(line: Line) -> str:
    if not line.words:
        raise mistake(line.command.name, f"an argument is missing; usage: {line.command.usage}")
    return line.words[0]
