"""From the bytes of a delivery to what a trigger method asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, is_typeddict

import msgspec

from sagaz_lab.errors import DecodeError, MissingKey, PayloadMismatch, describe
from sagaz_lab.model.event import Event
from sagaz_lab.model.trigger import Trigger

Decode = Callable[[bytes], Any]
_SHOWN = 80


def decoder(decode: str | Decode) -> Decode:
    """The function for a trigger's `decode=`; it raises `DecodeError`."""
    if callable(decode):
        return _guarded(decode)
    return DECODERS[decode]


def _json(raw: bytes) -> Any:
    try:
        return _decode_json(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DecodeError(
            f"the payload is no JSON: {str(error) or type(error).__name__}; it starts {_start(raw)}"
        ) from None


_decode_json = msgspec.json.Decoder().decode


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"the payload is no UTF-8 text: {error}; it starts {_start(raw)}") from None


def _guarded(decode: Decode) -> Decode:
    def call(raw: bytes) -> Any:
        try:
            return decode(raw)
        except Exception as error:
            raise DecodeError(f"decode= failed: {describe(error)}; the payload starts {_start(raw)}") from error

    return call


def _start(raw: bytes) -> str:
    return repr(raw[:_SHOWN]) if raw else "nowhere: it is empty"


DECODERS: Mapping[str, Decode] = {"json": _json, "text": _text, "bytes": bytes}

Validate = Callable[[Any], Any]


def validator(trigger: Trigger) -> Validate | None:
    """Turns a decoded payload into the annotated type, or raises `PayloadMismatch`; None where any payload will do."""
    wanted = trigger.payload_type
    if wanted is None:
        return None
    if _is_pydantic(wanted):
        # A table of one: pydantic is imported only where a payload type needs it.
        convert: Validate = import_module("sagaz_lab.runtime.pydantic_payloads").validator(wanted)
        return convert
    return _msgspec(wanted)


def _is_pydantic(wanted: Any) -> bool:
    return hasattr(wanted, "__pydantic_validator__") or hasattr(wanted, "__get_pydantic_core_schema__")


def _msgspec(wanted: Any) -> Validate:
    is_class = isinstance(wanted, type) and not is_typeddict(wanted)
    name = getattr(wanted, "__name__", str(wanted))

    def convert(payload: Any) -> Any:
        if is_class and isinstance(payload, wanted):
            return payload
        try:
            return msgspec.convert(payload, wanted)
        except (msgspec.ValidationError, TypeError, RecursionError) as error:
            raise PayloadMismatch(f"the payload does not fit {name}: {error}") from None

    return convert


def key_reader(owner: str, option: str, key: str | Callable[[Any], Any]) -> Callable[[Any], str]:
    """Reads a key from what the trigger method gets, as text. Raises `MissingKey` that names the field."""
    if callable(key):
        function: Callable[[Any], Any] = key

        def read(subject: Any) -> str:
            try:
                value = function(subject)
            except Exception as error:
                raise MissingKey(f"{owner}: {option}= could not read its key: {describe(error)}") from error
            return _key_text(owner, option, value)

        return read
    field = key

    def read_field(subject: Any) -> str:
        payload = subject.payload if isinstance(subject, Event) else subject
        try:
            # Asking an abstract class costs more than all the rest, and most payloads are dicts.
            is_mapping = type(payload) is dict or isinstance(payload, Mapping)
            value = payload[field] if is_mapping else getattr(payload, field)
        except (KeyError, AttributeError):
            raise MissingKey(f"{owner}: {option}={field!r}, but the event has no field {field!r}") from None
        return _key_text(owner, option, value)

    return read_field


_KEY_LENGTH = 1024


def as_key(value: Any) -> str:
    """A key as it is stored and compared."""
    return value if isinstance(value, str) else repr(value)


def _key_text(owner: str, option: str, value: Any) -> str:
    if value is None or value == "":
        raise MissingKey(f"{owner}: {option}= is empty in this event")
    text = value if type(value) is str else as_key(value)
    if len(text) > _KEY_LENGTH:
        raise MissingKey(f"{owner}: {option}= is {len(text)} characters long; {_KEY_LENGTH} are allowed")
    return text
