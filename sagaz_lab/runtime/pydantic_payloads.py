"""Validation into pydantic's models; imported only for a payload type that needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sagaz_lab.errors import PayloadMismatch


def validator(wanted: Any) -> Callable[[Any], Any]:
    adapter = TypeAdapter(wanted)
    name = getattr(wanted, "__name__", str(wanted))

    def convert(payload: Any) -> Any:
        if isinstance(payload, wanted):
            return payload
        try:
            return adapter.validate_python(payload)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'payload'}: {e['msg']}" for e in error.errors()[:5])
            raise PayloadMismatch(f"the payload does not fit {name}: {wrong}") from None

    return convert
