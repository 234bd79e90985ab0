"""From the bytes of a delivery to the argument of a trigger method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sagaz_lab.errors import DecodeError, MissingKey, UnfitKey, describe
from sagaz_lab.model.apart import apart
from sagaz_lab.model.awaiting import at_once, is_awaitable
from sagaz_lab.model.event import Event, payload_as_sent
from sagaz_lab.model.keys import OPEN, UNCUT, key_text
from sagaz_lab.model.stopping import UserCode
from sagaz_lab.model.trigger import Trigger
from sagaz_lab.runtime.registry.payload_types import Validate, validator_of
from sagaz_lab.runtime.triggers.refit import refitted

Decode = Callable[[bytes], Any]
_SHOWN = 80


def decoder(decode: str | Decode) -> Decode:
    """The function for a trigger's `decode=`. Raises `DecodeError`; its result may be awaitable."""
    if callable(decode):
        return _guarded(decode)
    return DECODERS[decode]


def as_sent(event: Event, decode: Decode) -> Event:
    """The event with its payload decoded, or unchanged if decoding fails."""
    payload = payload_as_sent(event)
    if type(payload) is not bytes:
        return event
    try:
        return event.with_payload(decode(payload))
    except BaseException:  # noqa: BLE001  decode= may be the user's
        return event


def id_text(id: Any) -> str:
    """The text of an id that is not a string; "" makes the event a dead letter."""
    try:
        return "" if id is None else str(id)
    except BaseException:  # noqa: BLE001  the class is the user's
        return ""


def _json(raw: bytes) -> Any:
    try:
        return _decode_json(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DecodeError(f"the payload is not JSON: {str(error) or type(error).__name__}; it {_start(raw)}") from None


_decode_json = msgspec.json.Decoder().decode


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"the payload is not UTF-8 text: {error}; it {_start(raw)}") from None


def _guarded(decode: Decode) -> Decode:
    def call(raw: bytes) -> Any:
        try:
            payload = decode(raw)
        except BaseException as error:
            raise _failed(error, raw) from error
        return later(payload, raw) if is_awaitable(payload) else payload

    async def later(payload: Any, raw: bytes) -> Any:
        code = UserCode()
        try:
            return await code.awaited(payload)
        except BaseException as error:
            if code.ends_by(error):
                raise
            raise _failed(error, raw) from error

    return call


def _failed(error: BaseException, raw: bytes) -> DecodeError:
    return DecodeError(f"decode= failed: {describe(error)}; the payload {_start(raw)}")


def _start(raw: bytes) -> str:
    return f"starts with {raw[:_SHOWN]!r}" if raw else "is empty"


DECODERS: Mapping[str, Decode] = {"json": _json, "text": _text, "bytes": bytes}


def validator(trigger: Trigger) -> Validate | None:
    """Converts a decoded payload to the annotated type, or raises `PayloadMismatch`; None if any payload is accepted.

    Raises `DefinitionError` for a type that payloads cannot be converted to.
    """
    wanted = trigger.payload_type
    return None if wanted is None else refitted(validator_of(trigger), wanted)


def key_reader(owner: str, option: str, key: str | Callable[[Any], Any]) -> Callable[[Any], str]:
    """Reads a key, as canonical text, from the trigger method's argument.

    Raises `MissingKey` and `UnfitKey`, which name the option, whatever the user's code raises except Ctrl-C.
    """
    read = _at_once(key, option) if callable(key) else _field_reader(key)
    missing = "" if callable(key) else f"={key!r}, but the event has no field {key!r}"

    def text(subject: Any) -> str:
        try:
            value = read(subject)
            # Most keys are short strings, which are their own text.
            if type(value) is str and 0 < len(value) <= UNCUT and value[0] != OPEN:
                return value
            return key_text(value)
        except (MissingKey, UnfitKey) as error:
            shown = f"={key!r}" if missing else "="
            raise type(error)(f"{owner}: {option}{shown} {error}") from error.__cause__
        except _NoField:
            raise MissingKey(f"{owner}: {option}{missing}") from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise MissingKey(f"{owner}: {option}= could not read its key: {describe(error)}") from error

    return text


class _NoField(Exception):
    """The event has no such field."""


def _at_once(function: Callable[[Any], Any], option: str) -> Callable[[Any], Any]:
    """The trigger method does not see changes that the function makes to its argument."""
    return lambda subject: at_once(function(apart(subject)), f"{option}=")


def _field_reader(field: str) -> Callable[[Any], Any]:
    def read(subject: Any) -> Any:
        payload = payload_as_sent(subject) if isinstance(subject, Event) else subject
        # An isinstance check against an abstract class costs more than the rest, and most payloads are dicts.
        is_mapping = type(payload) is dict or isinstance(payload, Mapping)
        try:
            return payload[field] if is_mapping else getattr(payload, field)
        except (KeyError, AttributeError):
            raise _NoField from None

    return read
