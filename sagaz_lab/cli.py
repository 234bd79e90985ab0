"""The command line: sagaz-lab run | check | runs | dead | redrive | why.

Exit status: 0 success; 1 failure; 2 usage error; 3 `run` stopped with unfinished runs, which the next start resumes.
Errors are one line on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from sagaz_lab import __version__
from sagaz_lab.checking import problems
from sagaz_lab.ending import LEFT, end_on_signal
from sagaz_lab.errors import NO_EXCEPTIONS, SagazLabError, describe
from sagaz_lab.hosting.handle import Handle
from sagaz_lab.hosting.opening import DEFAULT_STORE
from sagaz_lab.hosting.views import open_letters
from sagaz_lab.lab import Lab
from sagaz_lab.model.run import Outcome, OutcomeKind, RunStatus
from sagaz_lab.model.wrong_calls import explain
from sagaz_lab.texts import SafeFilter, masked, printable

OK, FAILED = 0, 1
GRACE_S = 10.0
LONGEST_CELL = 60

MOST, LONGEST_S = 2**63 - 1, 1e9
"""The largest count of a store and the longest wait of a clock."""

_RUNS = ("run_id", "saga", "revision", "status", "attempt", "event_id", "started_at", "ended_at", "error")
_LETTERS = ("id", "trigger", "event_id", "cause", "attempts", "revision", "at", "error")
_IDS = ("id", "run_id", "event_id")
_CAUSES = ("cause", "count", "first_at", "last_at", "error")
_OUTCOMES = ("event_id", "trigger", "kind", "run_id", "reason")


class CommandFailed(Exception):
    """Its message is the line on stderr."""


class Parser(argparse.ArgumentParser):
    """Masks credentials from the command line in its errors."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(masked(message)))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (SagazLabError, CommandFailed) as error:
        print(f"sagaz-lab: {printable(masked(' '.join(str(error).split())))}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def parser() -> argparse.ArgumentParser:
    root = Parser(prog="sagaz-lab", description="Event-triggered sagas for Jupyter.")
    root.add_argument("--version", action="version", version=f"sagaz-lab {__version__}")
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    run = _command(commands, "run", _run, "start a module's triggers; SIGINT or SIGTERM drains and stops them")
    run.add_argument("module", metavar="MODULE", help="a module such as app.sagas, or a file such as sagas.py")
    run.add_argument("--grace", type=_seconds, default=GRACE_S, metavar="SECONDS",
                     help="how long runs may take to finish after the signal (default: %(default)g); "
                          "the process exits no later than 5 s after that")  # fmt: skip

    check = _command(commands, "check", _check, "list a module's sagas, triggers and problems; starts nothing")
    check.add_argument("module", metavar="MODULE", help="as for run")

    runs = _command(commands, "runs", _runs, "list a store's runs, newest first")
    runs.add_argument("--status", choices=[status.value for status in RunStatus], help="only runs with this status")
    runs.add_argument("--limit", type=_count, default=20, metavar="N", help="maximum number (default: %(default)s)")

    dead = _command(commands, "dead", _dead, "list a store's open dead letters, newest first")
    dead.add_argument("--by", choices=["cause"], help="one row per cause")
    dead.add_argument("--limit", type=_count, default=20, metavar="N", help="maximum number (default: %(default)s)")
    dead.add_argument("--before", metavar="ID", help="only those older than this one")

    redrive = _command(commands, "redrive", _redrive, "put dead letters back; a module's triggers decide them again")
    redrive.add_argument("module", metavar="MODULE", help="as for run; starts no source")
    which = redrive.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", nargs="*", default=[], metavar="ID", help="ids as listed by `dead`")
    which.add_argument("--all", action="store_true", help="all open ones, oldest first")

    why = _command(commands, "why", _why, "show an event's outcome for each trigger that received it")
    why.add_argument("event_id", metavar="EVENT_ID")
    return root


def _command(
    commands: Any, name: str, command: Callable[[argparse.Namespace], int], about: str
) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    added.add_argument("--store", default=DEFAULT_STORE, metavar="ADDRESS", help="default: %(default)s")
    added.set_defaults(command=command)
    return added


def _count(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text.lstrip("0")) <= len(str(MOST))
    if not is_number or not 1 <= int(text.lstrip("0") or "0") <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MOST}")
    return int(text.lstrip("0"))


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= LONGEST_S:  # rejects NaN too
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {LONGEST_S:.0f}")
    return number


# --- run ---


def _run(options: argparse.Namespace) -> int:
    lab = Lab(store=options.store)
    with lab.activate():
        load(options.module)
    if not any(definition.triggers for definition in lab.sagas.values()):
        raise CommandFailed(f"{options.module} defines no saga with a trigger")
    _make(lab, options.module)
    _log_to_stderr()
    return asyncio.run(_serve(lab, options.grace))


def _log_to_stderr() -> None:
    """Log to stderr, with credentials and control sequences masked in library records too.

    Re-enables our loggers: `logging.config` in the loaded module disables loggers that it does not name.
    """
    for name in list(logging.Logger.manager.loggerDict):
        if name.partition(".")[0] == "sagaz_lab":
            logging.getLogger(name).disabled = False
    logging.basicConfig(level=logging.INFO, format="%(asctime)sZ %(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(SafeFilter())
        if handler.formatter is not None:
            handler.formatter.converter = time.gmtime


def load(name: str) -> None:
    """Import a module by name, or a file as a module. Raises `CommandFailed` with the cause."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        if name.endswith(".py"):
            _load_file(Path(name))
        else:
            importlib.import_module(name)
    except SagazLabError:
        raise
    except (Exception, *NO_EXCEPTIONS) as error:
        said = f"TypeError: {text}" if (text := explain(error)) else describe(error)
        raise CommandFailed(f"{name} cannot be imported: {said}{_place(error)}") from error


def _make(lab: Lab, module: str) -> None:
    """Instantiate each saga, since `__init__` is user code too. Raises as `load` does."""
    try:
        lab._triggers.load(lab.sagas, lab.sagas)
    except SagazLabError:
        raise
    except Exception as error:
        raise CommandFailed(f"{module}: a saga cannot be instantiated: {describe(error)}{_place(error)}") from error


def _load_file(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    sys.path.insert(0, str(path.resolve().parent))
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _place(error: BaseException) -> str:
    """The line of the user's code that raised it."""
    place, step = "", error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if file not in (__file__, importlib.__file__) and not file.startswith("<frozen"):
            place = f" ({file}:{step.tb_lineno})"
        step = step.tb_next
    return place


async def _serve(lab: Lab, grace_s: float) -> int:
    """Run until a signal. A second signal ends the process at once; the next start resumes its runs."""
    left: list[str] = []
    lab.on_report(lambda kind, _: left.append(kind) if kind == "stop" else None)
    lost: list[str] = []
    lab.on_report(lambda kind, _: lost.append(kind) if kind == "lease" else None)
    signalled = asyncio.Event()
    # Once another process runs the triggers, this one has nothing left to do.
    lab.on_report(lambda kind, _: signalled.set() if kind == "lease" else None)
    end_on_signal(signalled.set, grace_s)
    async with lab:
        handle = lab.start()
        asked = asyncio.create_task(signalled.wait(), name="signal")
        starting = asyncio.ensure_future(_connected(handle))
        await asyncio.wait([asked, starting], return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            starting.result()  # raises its error
            print(f"sagaz-lab: running {_started(lab)}; SIGINT or SIGTERM stops it", file=sys.stderr, flush=True)
            await asked
        starting.cancel()
        print("sagaz-lab: draining", file=sys.stderr, flush=True)
        await lab.stop(grace_s)
    _, waiting = lab.store.rows("runs", 1, status=RunStatus.WAITING.value)  # for their turn or their retry
    return FAILED if lost else LEFT if left or waiting else OK


async def _connected(handle: Handle) -> None:
    await handle


def _started(lab: Lab) -> str:
    triggers = lab.status().triggers
    return printable(", ".join(f"{trigger.name} ({trigger.source})" for trigger in triggers))


# --- check ---


def _check(options: argparse.Namespace) -> int:
    lab = Lab(store="memory", offline=True)
    with lab.activate():
        load(options.module)
    if not lab.sagas:
        raise CommandFailed(f"{options.module} defines no saga")
    found = problems(lab, options.store)
    for name, definition in lab.sagas.items():
        print(printable(f"{name}: {', '.join(definition.actions) or 'no actions'}"))
        for trigger in definition.triggers.values():
            print(printable(f"  {trigger.name} <- {trigger.spec}"))
        for problem in found[name]:
            print(printable(f"  ! {problem}"))
    triggers, wrong = sum(len(it.triggers) for it in lab.sagas.values()), sum(map(len, found.values()))
    print(f"{len(lab.sagas)} saga(s), {triggers} trigger(s), {wrong} problem(s)")
    return FAILED if wrong else OK


# --- tables ---


def _runs(options: argparse.Namespace) -> int:
    rows = _rows(options.store, "runs", options.limit, status=options.status)
    return _show(rows, _RUNS, "no runs")


def _dead(options: argparse.Namespace) -> int:
    if options.by is None:
        letters = _rows(options.store, "dead_letters", options.limit, before=options.before)
        return _show(letters, _LETTERS, "no open dead letters")
    if options.before is not None:
        raise CommandFailed("dead: --before does not go with --by cause")
    return _show(_rows(options.store, "causes", options.limit), _CAUSES, "no open dead letters")


def _redrive(options: argparse.Namespace) -> int:
    """Fails if any is dead again."""
    lab = _lab(options.store, offline=False)  # opens no source, but publications go to their broker
    with lab.activate():
        load(options.module)
    _make(lab, options.module)
    outcomes = asyncio.run(_redriven(lab, open_letters(lab.store) if options.all else options.ids))
    _show([outcome._asdict() for outcome in outcomes], _OUTCOMES, "no open dead letters")
    return FAILED if any(outcome.kind is OutcomeKind.DEAD for outcome in outcomes) else OK


async def _redriven(lab: Lab, ids: Sequence[str]) -> list[Outcome]:
    async with lab:
        outcomes = await lab.redrive(ids)
        await lab.drain()
    return outcomes


def _why(options: argparse.Namespace) -> int:
    answer = _lab(options.store).why(options.event_id)
    if not answer.outcomes and not answer.is_run:
        raise CommandFailed(f"event {options.event_id}: not in the store (filtered events are known only to "
                            "the process that filtered them, unless persist_events=True)")  # fmt: skip
    print("\n".join(printable(line) for line in answer.lines()))
    return OK


def _rows(address: str, frame: str, limit: int | None, **only: str | None) -> list[Mapping[str, Any]]:
    names, rows = _lab(address).store.rows(frame, limit, **only)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _lab(address: str, *, offline: bool = True) -> Lab:
    """A Lab for reading: it is not opened, so it takes no lease."""
    if address == "memory":
        raise CommandFailed("the memory store exists only in its own process; name a file: --store sqlite:///lab.db")
    lab = Lab(store=address, offline=offline)
    missing = getattr(lab.store, "missing", None)
    if missing is not None and (place := missing()) is not None:
        raise CommandFailed(f"no store at {place}")
    return lab


def _show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], nothing: str) -> int:
    table = [[_cell(name, row[name]) for name in columns] for row in rows]
    if not table:
        print(nothing)
        return OK
    widths = [max(map(len, column)) for column in zip(columns, *table, strict=True)]
    for line in (columns, *table):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return OK


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if column.endswith("at"):
        return datetime.fromtimestamp(value, UTC).isoformat(" ", "milliseconds").removesuffix("+00:00") + "Z"
    text = "".join(letter if letter.isprintable() else " " for letter in " ".join(masked(str(value)).split()))
    long = len(text) > LONGEST_CELL and column not in _IDS
    return text[: LONGEST_CELL - 3] + "..." if long else text


if __name__ == "__main__":
    sys.exit(main())
