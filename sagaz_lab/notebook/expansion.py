"""Substitutes `{expression}` and `$name` in a line of `%triggers`, as in other magics."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from sagaz_lab.errors import describe
from sagaz_lab.notebook.commands import mistake

_PLACE = re.compile(r"\{\{(?P<kept>[^{}]*)\}\}|\{(?P<braced>[^{}]*)\}|\$\$|\$(?P<name>[A-Za-z_]\w*)")
_FORMATTED = re.compile(r"(?P<code>[A-Za-z_][^!:\"']*)(?:![rsa])?:(?P<spec>[^{}\"' ]*)")


def expand(command: str, text: str, namespace: Mapping[str, Any]) -> str:
    """Substitute the values. Anything that is not an expression, such as JSON, stays. Raises `UsageError`."""

    def value(place: re.Match[str]) -> str:
        if place[0] == "$$" or place["kept"] is not None:
            return "$" if place["kept"] is None else f"{{{place['kept']}}}"
        name = place["name"]
        if name is not None:
            return str(namespace[name]) if name in namespace else place[0]
        return _evaluated(command, place, namespace)

    return _PLACE.sub(value, text)


def _evaluated(command: str, place: re.Match[str], namespace: Mapping[str, Any]) -> str:
    code, spec = place["braced"].strip(), ""
    if not _is_expression(code) and (formatted := _FORMATTED.fullmatch(code)):
        code, spec = formatted["code"].strip(), formatted["spec"]
    if not _is_expression(code):
        return place[0]
    try:
        return format(eval(code, dict(namespace)), spec)
    except Exception as error:
        raise mistake(command, f"{place[0]} cannot be expanded: {' '.join(describe(error).split())}") from None


def _is_expression(code: str) -> bool:
    try:
        ast.parse(code, mode="eval")
    except (SyntaxError, ValueError):
        return False
    return True
