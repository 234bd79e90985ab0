"""What can be written after `%triggers`: the sub-commands, their options, and how a line is read."""

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
    """One sub-command. `options` says which take a value; `names` what its first word may be, for completion."""

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
            "Connect the sources of all triggers, or of these; sources that take longer connect in the background.\n"
            "    With --hold, runs of triggers that fail are held: nothing is undone or retried; see resume-run.\n"
            "    With --fresh it forgets the keys, cooldowns and waiting events of before, and says how many.\n"
            "    --resume: which runs that a dead kernel left go on: all, the newest (last) of each saga, or none.\n"
            "    With --isolated all of it lives on a thread of its own, and goes on while a cell blocks the kernel.",
            options={"--hold": False, "--fresh": False, "--resume": True, "--isolated": False},
            awaits=True, names="targets"),
    Command("stop", "stop [--grace SECONDS]",
            "Close the sources and wait, at most so long, until the runs have ended.",
            awaits=True, options={"--grace": True}, most=0),
    Command("pause", "pause TRIGGER", "Take no events of this trigger until `resume`.", names="triggers", most=1),
    Command("resume", "resume TRIGGER", "Take its events again.", names="triggers", most=1),
    Command("status", "status", "The sources, the triggers and what they have counted.", most=0),
    Command("dashboard", "dashboard", "What flows now, live, with buttons and sliders.", most=0),
    Command("fire", "fire TRIGGER or SOURCE [KEY=VALUE ...] [PAYLOAD] [--id ID] [--no-wait]",
            "Send an event through all gates and return its outcomes.\n"
            "    The payload is JSON or a Python expression:\n"
            '        %triggers fire model-retraining.on_drift {"score": 0.9} --id drift-7\n'
            "        %triggers fire memory topic=model.drift make_event(3)",
            awaits=True, options={"--id": True, "--no-wait": False}, names="fireable"),
    Command("preview", "preview TRIGGER [PAYLOAD]",
            "What every gate would say to this payload; nothing is stored and nothing started.",
            awaits=True, names="triggers"),
    Command("wait", "wait [N events | until idle] [--timeout SECONDS]",
            "Show outcomes and failures here as they come, until the triggers are stopped or the cell is interrupted.\n"
            "    With N it ends once N more events are decided, with `until idle` once no event is being decided and\n"
            "    no run is under way (events in windows and runs that wait for their retry do not count), with\n"
            "    --timeout at the latest then, as an error. The sources go on.",
            awaits=True, options={"--timeout": True}, words=("until", "idle")),
    Command("why", "why EVENT_ID", "What became of this event, and why.", most=1),
    Command("runs", "runs [--status STATUS] [--limit N]", "The runs as a table, newest first.",
            options={"--status": True, "--limit": True}, most=0),
    Command("resume-run", "resume-run RUN [--from ACTION]",
            "Go on with a run that is held or was interrupted, from its failed action or an earlier one.\n"
            "    The current revision does that. What its actions print comes here. Returns how the run ended.",
            awaits=True, options={"--from": True}, names="held", most=1),
    Command("compensate-run", "compensate-run RUN",
            "Undo a run that is held, partially committed or was interrupted; cancel one that runs or waits.\n"
            "    Returns how it ended.",
            awaits=True, names="undoable", most=1),
    Command("tail", "tail [RUN] [--lines N]",
            "The last 50 lines, or so many, of one run's log, or of the logs of all recent runs, newest last.\n"
            "    What runs print in the background goes there: stdout, stderr, logging and warnings.",
            options={"--lines": True}, names="logs", most=1),
    Command("dlq", "dlq [--by cause] [--limit N] [--before ID] | dlq redrive ID ... | dlq redrive all | "
            "dlq discard ID[,ID ...] REASON | dlq discard all REASON",
            "The open dead letters as a table, newest first; put them back; or drop them for good.",
            options={"--by": True, "--limit": True, "--before": True}, words=("redrive", "discard")),
    Command("forget", "forget TRIGGER [KEY]",
            "Free one idempotency key, or all claims and cooldowns of the trigger; its pace begins anew.",
            awaits=True, names="triggers", most=2),
    Command("remove", "remove SAGA",
            "Take the saga away: its triggers take no more events. Runs that have begun go on to their end.",
            names="sagas", most=1),
    Command("use", "use STORE",
            "Stop, and go on in another store: `memory` to try things out, or an address such as sqlite:///other.db.",
            awaits=True, words=("memory",), most=1),
    Command("params", "params TRIGGER [NAME=VALUE ...] [--history]",
            "Its params as they are now; change them from its next event on; or list the changes, newest first.",
            awaits=True, options={"--history": False}, names="triggers"),
    Command("limits", "limits TRIGGER [NAME=VALUE ...]",
            "Its max_concurrent_sagas and rate_limit_per_second as they are now; change them at once.",
            awaits=True, names="triggers"),
    Command("shadow", "shadow [SAGA] [--end]",
            "What the shadow of this saga, begun by `%%saga --shadow`, has decided differently; or end it.",
            options={"--end": False}, names="shadows", most=1),
    Command("help", "help [COMMAND]", "This text, or the one of a command.", names="commands", most=1),
)  # fmt: skip
COMMANDS = {command.name: command for command in _ALL}


@dataclass(frozen=True, slots=True)
class Line:
    """A line as read."""

    command: Command
    words: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


_QUIET = re.compile(r"""\s*;\s*(#[^"']*)?$""")
"""What ends a line that is to show nothing: a semicolon, and at most a comment behind it."""


def without_semicolon(text: str) -> str:
    """The line as it is read; where that is shorter, nothing is to be shown."""
    return _QUIET.sub("", text)


def awaits(text: str) -> bool:
    """Does this line of `%triggers` give something to await?"""
    words = without_semicolon(text).split(maxsplit=3)
    if words[:1] == ["timed"]:
        words = words[1:]
    if words[:1] == ["dlq"]:
        return words[1:2] in (["redrive"], ["discard"])
    return bool(words) and words[0] in COMMANDS and COMMANDS[words[0]].awaits


def mistake(command: str, message: str) -> UsageError:
    """The shell shows it as one line."""
    return UsageError(f"%triggers {command}: {message}")


def one_of(command: str, noun: str, value: str, known: Iterable[str]) -> str:
    """The value, if it is known; else a mistake that names the nearest."""
    names = list(known)
    if value not in names:
        raise UsageError(str(UnknownName(f"%triggers {command}".strip(), noun, value, names)))
    return value


def split(text: str) -> tuple[Command, str]:
    """The sub-command and the rest of the line. Raises `UsageError`."""
    name, _, rest = text.strip().partition(" ")
    return COMMANDS[one_of("", "sub-command", name or "help", COMMANDS)], rest.strip()


def read(command: Command, rest: str) -> Line:
    """Words and options, in any order; a word that begins with # ends the line."""
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
        raise mistake(command.name, f"too much: {words[command.most]!r}; it is: {command.usage}")
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
    """`NAME=VALUE`: the value is JSON or Python's, or a text where the param is one now. Raises `UsageError`."""
    name, is_change, text = word.partition("=")
    if not (name and is_change):
        raise mistake(command, f"{word!r} is no change; it is: {COMMANDS[command].usage}")
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
    """A line of `fire` or `preview`, its payload evaluated."""

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
    """`NAME [KEY=VALUE ...] [PAYLOAD] [options]`; options may stand on both sides of the payload.

    `expand` puts the user's values into all of it but the payload, which is an expression itself.
    """
    name, _, rest = rest.partition(" ")
    name = expand(command.name, name, namespace)
    if not name:
        raise mistake(command.name, f"what? It is: {command.usage}")
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
        raise mistake(command.name, f"too much: {line.words[0]!r}; put an id with spaces into quotes, --id 'a b'")
    return FireLine(name, where, payload, line.options)


def _payload(command: str, text: str, namespace: Mapping[str, Any]) -> tuple[Any, str]:
    """The payload and the options that follow it: JSON if it can be read as such, else Python."""
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
    """Python's, with no comment at its end."""
    try:
        ast.parse(f"({_without_mark(text)})", mode="eval")
    except (SyntaxError, ValueError):
        return False
    return True


def _without_mark(text: str) -> str:
    """`$x` is x."""
    return re.sub(r"^\$(?=[A-Za-z_])", "", text.strip())


def _evaluated(command: str, text: str, namespace: Mapping[str, Any], not_json: str) -> Any:
    """`{x}` and `$x` are x: as a payload a set of one value has no meaning."""
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
        f"Start, feed and watch the triggers of the sagas that are registered here.\n\n{listed}\n\n"
        "In each line {expression} and $name stand for their values. JSON stays as it is. The payload of `fire` and\n"
        "`preview` is an expression itself: {x} or $x stands for the value of x only if it is the whole payload.\n"
        "What these return can be kept: `outcomes = %triggers fire ...`. More on one: `%triggers fire?`."
    )
