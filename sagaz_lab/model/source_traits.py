"""How a kind of source differs from its siblings, known without its library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class SourceTraits(NamedTuple):
    """What a source promises beyond the protocol; the runtime and the suite ask these, never the kind.

    `ordered`: events come in their order. `redelivers`: what was not settled comes again after the source was left.
    `delays_nack`: it honours `delay_s`. `finite`: it ends by itself, so that a drain waits for its end. `keeps_s`: how
    long it keeps deliveries alive while the store is away, None without bound; past it everything is given back once.

    `shared`: triggers with the same settings read it together; where it keeps a position for each trigger they do not.
    `scheduled`: its events are ticks, the option `overlap` is honoured, and a tick fired by hand has `scheduled_for`.
    `in_process`: `fire` and the outbox feed it too. `own_payload`: it makes the payloads, whose fields are documented.
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
"""Of the package's own kinds; a class declares the same as its `traits`."""


def traits_of(source: Any) -> SourceTraits:
    """As a source, or what makes it, declares them; a function that makes one declares none."""
    traits = getattr(source, "traits", NO_TRAITS)
    return traits if isinstance(traits, SourceTraits) else NO_TRAITS
