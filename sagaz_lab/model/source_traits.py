"""The traits of each kind of source, known without its library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

SOURCE_VERBS = ("receive", "settle", "nack", "keep_alive", "__aenter__", "__aexit__")


class SourceTraits(NamedTuple):
    """A source's promises beyond the protocol. The runtime and the suite check these, never the kind.

    `ordered`: events arrive in order. `redelivers`: unsettled deliveries come again after the source was closed.
    `delays_nack`: `delay_s` is honoured. `finite`: it ends by itself and a drain waits for that. `keeps_s`: how long
    it keeps deliveries alive during an outage of the store, None without limit; then it gives everything back once.

    `shared`: triggers with equal settings share it; a source with a position per trigger is not shared. `scheduled`:
    its events are ticks, `overlap` is honoured, and a tick fired by hand has `scheduled_for`. `in_process`: `fire` and
    the outbox feed it too. `own_payload`: it creates the payloads, with documented fields.
    """

    ordered: bool = True
    redelivers: bool = True
    delays_nack: bool = False
    finite: bool = False
    keeps_s: float | None = None
    shared: bool = True
    scheduled: bool = False
    in_process: bool = False
    own_payload: bool = False


NO_TRAITS = SourceTraits()

TRAITS: Mapping[str, SourceTraits] = {
    "memory": SourceTraits(delays_nack=True, in_process=True),
    "recording": SourceTraits(finite=True),
    "redis": SourceTraits(delays_nack=True),
    "cron": SourceTraits(delays_nack=True, shared=False, scheduled=True, own_payload=True),
    "dead_letters": SourceTraits(delays_nack=True, shared=False, own_payload=True),
}
"""Traits of the built-in kinds; a class declares the same as its `traits`."""


def traits_of(source: Any) -> SourceTraits:
    """The traits declared by a source or its class; a factory function declares none."""
    traits = getattr(source, "traits", NO_TRAITS)
    return traits if isinstance(traits, SourceTraits) else NO_TRAITS


def lacks(source: Any) -> str:
    """What it lacks of a Source, as the end of a sentence; "" if nothing. Without traits it has the defaults."""
    if isinstance(source, type):
        return "it is a class, not an object of it"
    missing = [verb for verb in SOURCE_VERBS if not callable(_member(source, verb))]
    name = _member(source, "name")
    if not (isinstance(name, str) and name):
        missing.append("name (a text)")
    if not isinstance(_member(source, "traits", NO_TRAITS), SourceTraits):
        missing.append("traits (a SourceTraits)")
    return f"it has no {', '.join(missing)}" if missing else ""


def _member(source: Any, name: str, default: Any = None) -> Any:
    try:
        return getattr(source, name, default)
    except Exception:  # noqa: BLE001  a property of the user's
        return None
