"""The sub-commands of `%triggers`, their options and the parser of a line."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from IPython.core.error import UsageError

from sagaz_lab.errors import UnknownName, describe

Names = Literal["", "triggers", "targets", "fireable", "commands", "logs", "shadows", "sagas", "held", "undoable"]


@dataclass(frozen=True, slots=True)
class Command:
    """One sub-command. `options` maps each to whether it takes a value; `names` is what completes its first word."""

    name: str
    usage: str
    what: str
    awaits: bool = False
    options: Mapping[str, bool] = field(default_factory=dict)
    names: Names = ""
    words: tuple[str, ...] = ()
    most: int | None = None

    def help(self) -> str:
        return f"%triggers {self.usage}\n    {self.what}"


_ALL = (
    Command("start", "start [SAGA or TRIGGER ...] [--hold] [--fresh] [--resume all|last|none] [--isolated]",
            "Start all triggers, or these. Slow sources connect in the background.\n"
            "    --hold holds failed runs of triggers: nothing is undone or retried; see resume-run.\n"
            "    --fresh first forgets all keys, cooldowns and waiting events and reports their number.\n"
            "    --resume selects the runs of a crashed kernel to resume: all, the last of each saga, or none.\n"
            "    --isolated uses a separate thread, which keeps running while a cell blocks the kernel.",
            options={"--hold": False, "--fresh": False, "--resume": True, "--isolated": False},
            awaits=True, names="targets"),
    Command("stop", "stop [--grace SECONDS]",
            "Close the sources and wait up to SECONDS (10) for runs to finish.",
            awaits=True, options={"--grace": True}, most=0),
    Command("pause", "pause TRIGGER", "Take no events for this trigger until `resume`.", names="triggers", most=1),
    Command("resume", "resume TRIGGER", "Undo `pause`.", names="triggers", most=1),
    Command("status", "status", "Show the sources and the triggers with their counts.", most=0),
    Command("dashboard", "dashboard", "Show the live dashboard, with buttons and sliders.", most=0),
    Command("fire", "fire TRIGGER or SOURCE [KEY=VALUE ...] [PAYLOAD] [--id ID] [--no-wait]",
            "Send an event through all gates and return its outcomes.\n"
            "    The payload is JSON or a Python expression.\n"
            '        %triggers fire model-retraining.on_drift {"score": 0.9} --id drift-7\n'
            "        %triggers fire memory topic=model.drift make_event(3)",
            awaits=True, options={"--id": True, "--no-wait": False}, names="fireable"),
    Command("preview", "preview TRIGGER [PAYLOAD]",
            "Show each gate's verdict on this payload. Stores nothing and starts nothing.",
            awaits=True, names="triggers"),
    Command("wait", "wait [N events | until idle] [--timeout SECONDS]",
            "Show outcomes and failures as they come, until the triggers are stopped or the cell is interrupted.\n"
            "    `wait N` returns once N more events are decided. `wait until idle` returns once no event is being\n"
            "    decided and no run is live; events in windows and runs waiting for a retry do not count. After\n"
            "    --timeout it fails. The sources keep running.",
            awaits=True, options={"--timeout": True}, words=("until", "idle")),
    Command("why", "why EVENT_ID", "Show this event's outcomes and their reasons.", most=1),
    Command("runs", "runs [--status STATUS] [--limit N]", "Show the runs, newest first.",
            options={"--status": True, "--limit": True}, most=0),
    Command("resume-run", "resume-run RUN [--from ACTION]",
            "Resume a held or interrupted run from its failed action, or from an earlier one.\n"
            "    It uses the current revision and prints into this cell. Returns the run's status.",
            awaits=True, options={"--from": True}, names="held", most=1),
    Command("compensate-run", "compensate-run RUN",
            "Undo a held, partially committed or interrupted run; cancel a running or waiting one.\n"
            "    Returns the run's status.",
            awaits=True, names="undoable", most=1),
    Command("tail", "tail [RUN] [--lines N]",
            "Show the last N lines (50) of a run's log, or of the logs of all recent runs, newest last.\n"
            "    A run's log has the background output of its actions: stdout, stderr, logging and warnings.",
            options={"--lines": True}, names="logs", most=1),
    Command("dlq", "dlq [--by cause] [--limit N] [--before ID] | dlq redrive ID ... | dlq redrive all | "
            "dlq discard ID[,ID ...] REASON | dlq discard all REASON",
            "Show the open dead letters, newest first; redrive or discard them.",
            options={"--by": True, "--limit": True, "--before": True}, words=("redrive", "discard")),
    Command("forget", "forget TRIGGER [KEY]",
            "Free one idempotency key, or all claims and cooldowns of the trigger; its rate limit restarts.",
            awaits=True, names="triggers", most=2),
    Command("remove", "remove SAGA",
            "Unregister a saga: its triggers take no more events. Its live runs finish.",
            names="sagas", most=1),
    Command("use", "use STORE",
            "Stop, then switch to another store: `memory` for experiments, or an address such as sqlite:///other.db.",
            awaits=True, words=("memory",), most=1),
    Command("params", "params TRIGGER [NAME=VALUE ...] [--history]",
            "Show its params, change them from its next event on, or list the changes, newest first.",
            awaits=True, options={"--history": False}, names="triggers"),
    Command("limits", "limits TRIGGER [NAME=VALUE ...]",
            "Show or change its max_concurrent_sagas and rate_limit_per_second, at once.",
            awaits=True, names="triggers"),
    Command("shadow", "shadow [SAGA] [--end]",
            "Show where the saga's shadow, begun with `%%saga --shadow`, decided differently; or end it.",
            options={"--end": False}, names="shadows", most=1),
    Command("help", "help [COMMAND]", "Show this text, or a command's help.", names="commands", most=1),
)  # fmt: skip
COMMANDS = {command.name: command for command in _ALL}


@dataclass(frozen=True, slots=True)
class Line:
    """A parsed line."""

    command: Command
    words: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


_QUIET = re.compile(r"""\s*;\s*(#[^"']*)?$""")
"""The end of a line that shows nothing: a semicolon, optionally followed by a comment."""


def without_semicolon(text: str) -> str:
    """The line to parse; if it is shorter than `text`, the result is not shown."""
    return _QUIET.sub("", text)


def awaits(text: str) -> bool:
    """Whether this line of `%triggers` returns an awaitable."""
    words = without_semicolon(text).split(maxsplit=3)
    if words[:1] == ["timed"]:
        words = words[1:]
    if words[:1] == ["dlq"]:
        return words[1:2] in (["redrive"], ["discard"])
    return bool(words) and words[0] in COMMANDS and COMMANDS[words[0]].awaits


def mistake(command: str, message: str) -> UsageError:
    """An error that the shell shows as one line."""
    return UsageError(f"%triggers {command}: {message}")


def one_of(command: str, noun: str, value: str, known: Iterable[str]) -> str:
    """The value. Raises `UsageError` naming the nearest one if it is unknown."""
    names = list(known)
    if value not in names:
        raise UsageError(str(UnknownName(f"%triggers {command}".strip(), noun, value, names)))
    return value


def split(text: str) -> tuple[Command, str]:
    """Split off the sub-command. Raises `UsageError`."""
    name, _, rest = text.strip().partition(" ")
    return COMMANDS[one_of("", "sub-command", name or "help", COMMANDS)], rest.strip()


def read(command: Command, rest: str) -> Line:
    """Parse words and options in any order; a word that begins with # ends the line. Raises `UsageError`."""
    words: list[str] = []
    options: dict[str, str] = {}
    given = iter(_tokens(rest))
    for token in given:
        if not token.startswith("--"):
            words.append(token)
            continue
        name, has_value, value = token.partition("=")
        one_of(command.name, "option", name, command.options)
        if command.options[name] and not has_value:
            value = next(given, "")
        if command.options[name] != bool(value):
            raise mistake(command.name, f"{name} {'needs a' if command.options[name] else 'takes no'} value")
        options[name] = value
    if command.most is not None and len(words) > command.most:
        raise mistake(command.name, f"unexpected {words[command.most]!r}; usage: {command.usage}")
    return Line(command, tuple(words), options)


def _tokens(text: str) -> list[str]:
    """The words; quotes keep spaces together."""
    found = []
    for match in re.finditer(r"""(?:[^\s"']|"[^"]*"|'[^']*')+|["']""", text):
        if match[0].startswith("#"):
            break
        found.append(re.sub(r""""([^"]*)"|'([^']*)'""", lambda quoted: quoted[1] or quoted[2] or "", match[0]))
    return found


def read_param(command: str, word: str, now: Mapping[str, Any]) -> tuple[str, Any]:
    """Parse `NAME=VALUE`: JSON or a Python literal; any text if the param is a string. Raises `UsageError`."""
    name, is_change, text = word.partition("=")
    if not (name and is_change):
        raise mistake(command, f"{word!r} is not NAME=VALUE; usage: {COMMANDS[command].usage}")
    if isinstance(now.get(name), str):
        return name, text
    try:
        return name, json.loads(text)
    except json.JSONDecodeError:
        return name, {"True": True, "False": False, "None": None, "none": None}.get(text, text)


def number(command: str, name: str, value: str) -> float:
    """A positive number. Raises `UsageError`."""
    try:
        result = float(value.removesuffix("s"))
    except ValueError:
        raise mistake(command, f"{name} takes a number, not {value!r}") from None
    if not 0 < result < float("inf"):
        raise mistake(command, f"{name} takes a number above 0, not {value!r}")
    return result


@dataclass(frozen=True, slots=True)
class FireLine:
    """A parsed line of `fire` or `preview` with the evaluated payload."""

    name: str
    where: Mapping[str, str]
    payload: Any
    options: Mapping[str, str]


_WHERE = re.compile(r"""([A-Za-z_]\w*)=(?!=)("[^"]*"|'[^']*'|\S*)(?:\s+|$)""")
_AHEAD = re.compile(r"(--id(?:=|\s+)\S+|--[\w-]+)(?:\s+|$)")
_BEHIND = re.compile(r"\s(?=--[A-Za-z])")


def read_firing(
    command: Command, rest: str, namespace: Mapping[str, Any], expand: Callable[[str, str, Mapping[str, Any]], str]
) -> FireLine:
    """Parse `NAME [KEY=VALUE ...] [PAYLOAD] [options]`; options may come before or after the payload.

    `expand` substitutes the user's values everywhere but in the payload, which is itself an expression.
    """
    name, _, rest = rest.partition(" ")
    name = expand(command.name, name, namespace)
    if not name:
        raise mistake(command.name, f"an argument is missing; usage: {command.usage}")
    where: dict[str, str] = {}
    given: list[str] = []
    rest = rest.strip()
    while match := _WHERE.match(rest) or _AHEAD.match(rest):
        if match.re is _WHERE:
            where[match[1]] = expand(command.name, match[2].strip("\"'"), namespace)
        else:
            one_of(command.name, "option", re.split(r"[=\s]", match[1])[0], command.options)
            given.append(match[1])
        rest = rest[match.end() :]
    payload, behind = _payload(command.name, rest, namespace)
    line = read(command, expand(command.name, " ".join((*given, behind)), namespace))
    if line.words:
        raise mistake(command.name, f"unexpected {line.words[0]!r}; quote an id with spaces, --id 'a b'")
    return FireLine(name, where, payload, line.options)


def _payload(command: str, text: str, namespace: Mapping[str, Any]) -> tuple[Any, str]:
    """The payload, read as JSON if possible, else as Python, and the options after it."""
    if not text or text.startswith("#"):
        return None, ""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        not_json = f"{error.msg}, at character {error.pos + 1} of {_shortened(text)}"
    else:
        if end == len(text) or re.match(r"\s+(--|#)", text[end:]):
            return value, text[end:].strip()
        not_json = f"{text[end:].strip()[:20]!r} follows it at character {end + 1} of {_shortened(text)}"
    ends = (match.start() for match in _BEHIND.finditer(text))
    end = next((end for end in ends if _is_expression(text[:end])), len(text))
    return _evaluated(command, text[:end], namespace, not_json), text[end:].strip()


def _is_expression(text: str) -> bool:
    """Whether it is a Python expression without a trailing comment."""
    try:
        ast.parse(f"({_without_mark(text)})", mode="eval")
    except (SyntaxError, ValueError):
        return False
    return True


def _without_mark(text: str) -> str:
    """`$x` is x."""
    return re.sub(r"^\$(?=[A-Za-z_])", "", text.strip())


def _evaluated(command: str, text: str, namespace: Mapping[str, Any], not_json: str) -> Any:
    """`{x}` and `$x` are x: a set of one value makes no sense as a payload."""
    try:
        tree = ast.parse(_without_mark(text), "<payload>", "eval")
        if isinstance(tree.body, ast.Set) and len(tree.body.elts) == 1:
            tree.body = tree.body.elts[0]
        code = compile(tree, "<payload>", "eval")
    except (SyntaxError, ValueError):
        raise mistake(command, f"the payload is neither JSON ({not_json}) nor a Python expression") from None
    try:
        return eval(code, dict(namespace))
    except Exception as error:
        told = " ".join(describe(error).split())
        raise mistake(command, f"the payload {_shortened(text)} is not JSON, and as Python it raises {told}") from None


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def overview() -> str:
    """The help of `%triggers`."""
    listed = "\n".join(f"  %triggers {c.usage}\n      {c.what.splitlines()[0]}" for c in COMMANDS.values())
    return (
        f"Start, feed and watch the triggers of the registered sagas.\n\n{listed}\n\n"
        "{expression} and $name in a line are replaced by their values; JSON is left alone. The payload of `fire` and\n"
        "`preview` is itself an expression, in which {x} or $x is replaced only if it is the whole payload.\n"
        "Keep a result with `outcomes = %triggers fire ...`. Help on one command: `%triggers fire?`."
    )
