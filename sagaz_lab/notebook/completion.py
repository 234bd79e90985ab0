"""Completion of `%triggers ...` and `%%saga ...`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from sagaz_lab.lab import Lab
from sagaz_lab.model.run import RunStatus
from sagaz_lab.notebook.commands import COMMANDS, Command
from sagaz_lab.notebook.magics import SAGA_OPTIONS

_LINE = re.compile(r"\s*(?:[\w\s,.\[\]'\"]+=\s*)?%triggers\s+(?P<rest>.*)")
_SAGA = re.compile(r"%%saga\s+\S*")


def matcher(lab: Lab) -> Callable[[CompletionContext], SimpleMatcherResult]:
    """What `IPCompleter.custom_matchers` takes."""

    @context_matcher()
    def sagaz_lab_matcher(context: CompletionContext) -> SimpleMatcherResult:
        before = context.text_until_cursor
        if context.cursor_line == 0 and _SAGA.fullmatch(before):
            found: Sequence[str] = SAGA_OPTIONS
        elif match := _LINE.fullmatch(before):
            found = candidates(lab, match["rest"])
        else:
            found = ()
        # IPython's token may begin later than ours, behind a character at which it splits.
        typed = re.split(r"\s", before)[-1]
        cut = len(typed) - len(context.token)
        texts = [text[cut:] for text in found if text.startswith(typed)] if cut >= 0 else []
        return {
            "completions": [SimpleCompletion(text, type="magic") for text in texts],
            "suppress": bool(texts),
            "ordered": True,
        }

    return sagaz_lab_matcher


def candidates(lab: Lab, rest: str) -> Sequence[str]:
    """What could stand where the cursor is, after `%triggers `; the word begun is part of `rest`."""
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
    if words[-1] == "--by":
        return ["cause"]
    if words == ["dlq", "redrive"]:
        return ["all"]
    return _first_words(lab, command) if len(words) == 1 or command.name == "start" else ()


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
        case "commands":
            return list(COMMANDS)
    return command.words
