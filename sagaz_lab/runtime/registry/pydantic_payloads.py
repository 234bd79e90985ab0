"""Validation by pydantic; imported only for a payload type that needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from sagaz_lab.errors import PayloadMismatch, describe
from sagaz_lab.runtime.registry.payload_types import Unfit, is_json

_to_json = msgspec.json.encode


def validator(wanted: Any, name: str) -> Callable[[Any], Any]:
    """Raises `Unfit`.

    JSON is validated by pydantic's rules for JSON, under which a strict model accepts a date as text; other values,
    such as an instance or a `datetime` in memory, by its rules for Python.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(wanted)
    except (PydanticUserError, TypeError, NameError) as error:
        raise Unfit(describe(error).splitlines()[0]) from None

    def convert(payload: Any) -> Any:
        raw = _as_json(payload)
        try:
            if raw is not None:
                try:
                    return adapter.validate_json(raw)
                except ValidationError as error:
                    if not any(e["type"] == "needs_python_object" for e in error.errors(include_context=False)):
                        raise
            return adapter.validate_python(payload)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'payload'}: {e['msg']}" for e in error.errors()[:5])
            raise PayloadMismatch(f"the payload does not fit {name}: {wrong}") from None

    return convert


def _as_json(payload: Any) -> bytes | None:
    """None if JSON cannot represent all of it."""
    try:
        return _to_json(payload) if is_json(payload) else None
    except (ValueError, OverflowError):  # a lone surrogate, or an int that is too large
        return None
