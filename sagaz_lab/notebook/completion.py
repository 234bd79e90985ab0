"""Completion of `%triggers ...` and `%%saga ...`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult

from sagaz_lab.errors import StoreError
from sagaz_lab.lab import Lab
from sagaz_lab.model.limits import LIMITS
from sagaz_lab.model.run import RunStatus
from sagaz_lab.notebook.commands import COMMANDS, Command
from sagaz_lab.notebook.magics import SAGA_OPTIONS
from sagaz_lab.runtime.recovery.start_report import RESUME

_LINE = re.compile(r"\s*(?:[\w\s,.\[\]'\"]+=\s*)?%triggers\s+(?P<rest>.*)")
UNDOABLE = (RunStatus.HELD, RunStatus.PARTIALLY_COMMITTED, RunStatus.COMPENSATION_FAILED, RunStatus.RUNNING)
RUNS, LOOKED_THROUGH = 20, 10_000
"""Runs offered, and newest runs searched for them."""

LETTERS = 20
"""Newest open dead letters offered."""

_SAGA = re.compile(r"%%saga\s+(?:\S+\s+)*\S*")


class Matcher:
    """An element of `IPCompleter.custom_matchers`."""

    matcher_api_version: Literal[2] = 2

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.__qualname__ = type(self).__qualname__  # the completer identifies matchers by it

    def __call__(self, context: CompletionContext) -> SimpleMatcherResult:
        before = context.text_until_cursor
        # IPython splits at more characters, so its token may begin later than our word.
        word = re.split(r"\s", before)[-1]
        cut = len(word) - len(context.token)
        texts = [text[cut:] for text in self._candidates(context, before) if text.startswith(word)] if cut >= 0 else []
        completions = [SimpleCompletion(text, type="magic") for text in texts]
        return {"completions": completions, "suppress": bool(texts), "ordered": True}

    def _candidates(self, context: CompletionContext, before: str) -> Sequence[str]:
        if context.cursor_line == 0 and _SAGA.fullmatch(before):
            return SAGA_OPTIONS
        match = _LINE.fullmatch(before)
        return candidates(self._lab, match["rest"]) if match else ()


def candidates(lab: Lab, rest: str) -> Sequence[str]:
    """Completions at the cursor, after `%triggers `; `rest` includes the word begun."""
    *words, begun = re.split(r"\s+", rest)
    if not words:
        return list(COMMANDS)
    command = COMMANDS.get(words[0])
    if command is None:
        return ()
    if begun.startswith("--"):
        return list(command.options)
    if words[-1] == "--status":
        return [str(status) for status in RunStatus]
    if words[-1] == "--resume":
        return RESUME
    if words[-1] == "--by":
        return ["cause"]
    if words[-1] == "--from":
        return _actions(lab, words[1])
    if words[:2] in (["dlq", "redrive"], ["dlq", "discard"]) and (len(words) == 2 or words[1] == "redrive"):
        return [*(["all"] if len(words) == 2 else []), *_newest_letters(lab)]
    if words[0] == "params" and len(words) > 1:
        return _params(lab, words[1])
    if words[0] == "limits" and len(words) > 1:
        return [f"{name}=" for name in LIMITS]
    return _first_words(lab, command) if len(words) == 1 or command.name == "start" else ()


def _params(lab: Lab, trigger: str) -> list[str]:
    saga, _, method = trigger.rpartition(".")
    found = lab.sagas[saga].triggers.get(method) if saga in lab.sagas else None
    return [f"{name}=" for name in found.params] if found else []


def _newest_letters(lab: Lab) -> list[str]:
    with suppress(StoreError):
        return [row[0] for row in lab.store.rows("dead_letters", LETTERS)[1]]
    return []


def _newest_runs(lab: Lab, *statuses: RunStatus) -> list[str]:
    with suppress(StoreError):
        columns, rows = lab.store.rows("runs", LOOKED_THROUGH)
        id_at, status_at = columns.index("run_id"), columns.index("status")
        return [row[id_at] for row in rows if row[status_at] in statuses][:RUNS]
    return []


def _left(lab: Lab) -> list[str]:
    away = lab.status().away
    return list(away.left)[:RUNS] if away is not None else []


def _actions(lab: Lab, run_id: str) -> list[str]:
    with suppress(StoreError):
        if (run := lab.store.run(run_id)) is not None and run.saga in lab.sagas:
            return list(lab.sagas[run.saga].actions)
    return []


def _first_words(lab: Lab, command: Command) -> Sequence[str]:
    triggers = [t.name for saga in lab.sagas.values() for t in saga.triggers.values()]
    kinds = {t.spec.kind: None for saga in lab.sagas.values() for t in saga.triggers.values()}
    match command.names:
        case "triggers":
            return triggers
        case "targets":
            return [*lab.sagas, *triggers]
        case "fireable":
            return [*triggers, *kinds]
        case "held":
            return [*_left(lab), *_newest_runs(lab, RunStatus.HELD)]
        case "undoable":
            return list(dict.fromkeys([*_left(lab), *_newest_runs(lab, *UNDOABLE)]))
        case "logs":
            return list(lab.logs())
        case "sagas":
            return list(lab.sagas)
        case "shadows":
            return list(lab.shadows)
        case "commands":
            return list(COMMANDS)
    return command.words
