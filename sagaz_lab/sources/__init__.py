"""The table of sources by kind.

Other packages add a kind with a class and an entry point in the group `sagaz_lab.sources`. Classes are called with
their settings as keywords and `surroundings=`. No library is imported before its source is opened.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container
from contextlib import suppress
from importlib import import_module
from typing import Any

from sagaz_lab.abc import Publisher, Source, Surroundings
from sagaz_lab.errors import DefinitionError, SagazLabError, SourceNotReady, describe
from sagaz_lab.model.options import KINDS, third_party_kinds
from sagaz_lab.model.source_traits import lacks
from sagaz_lab.model.trigger import SourceSpec

__all__ = ["ADAPTERS", "EXTRAS", "PUBLISHERS", "check", "checked", "open_publisher", "open_source"]

ADAPTERS = {
    "memory": "sagaz_lab.sources.memory:MemorySource",
    "redis": "sagaz_lab.sources.redis:RedisSource",
    "cron": "sagaz_lab.sources.cron:CronSource",
    "dead_letters": "sagaz_lab.sources.dead_letters:DeadLetterSource",
    "recording": "sagaz_lab.history.recording:RecordingSource",
}

# Called with the settings of the trigger whose runs publish.
PUBLISHERS = {"redis": "sagaz_lab.sources.redis_publisher:RedisPublisher"}

# Library module -> extra that installs it.
_PLAIN = "use a plain function that returns the Source, which connects when entered"

EXTRAS = {"redis": "redis", "pandas": "frames", "pyarrow": "frames"}


def open_source(spec: SourceSpec, surroundings: Surroundings) -> Source:
    """Create the source from its settings, not yet entered.

    Raises `SourceNotReady` if its adapter or library is missing, `DefinitionError` if its maker returns no source.
    """
    settings = dict(spec.settings)
    if spec.kind == "custom":
        maker, given = settings["factory"], dict(settings.get("settings") or {})
        return _made(f"source='custom': factory {_name_of(maker)}", maker, given)
    given = {**settings, "surroundings": surroundings}
    adapter = _adapter(spec)
    if spec.kind in ADAPTERS:
        source: Source = adapter(**given)
        return source
    return _made(f"source={spec.kind!r}: {third_party_kinds()[spec.kind].value}", adapter, given)


def check(spec: SourceSpec) -> None:
    """Raise the errors of `open_source` for a missing adapter or library and for unsupported settings.

    Creates no source.
    """
    if spec.kind == "custom":
        maker, given = spec.settings["factory"], dict(spec.settings.get("settings") or {})
        owner = f"source='custom': factory {_name_of(maker)}"
        if inspect.iscoroutinefunction(maker):
            raise DefinitionError(f"{owner} is async; {_PLAIN}")
    else:
        maker, given = _adapter(spec), {**spec.settings, "surroundings": None}
        owner = f"source={spec.kind!r}"
    with suppress(ValueError):  # its signature is not available
        try:
            inspect.signature(maker).bind(**given)
        except TypeError as error:
            raise DefinitionError(f"{owner} would fail: {error}") from None


def _adapter(spec: SourceSpec) -> Callable[..., Any]:
    if target := ADAPTERS.get(spec.kind):
        return _load(target)
    if spec.kind in KINDS:
        raise SourceNotReady(f"source={spec.kind!r} can be defined, but this version has no adapter to start it")
    if point := third_party_kinds().get(spec.kind):
        return _load(point.value)
    raise SourceNotReady(f"source={spec.kind!r}: no entry point of the group 'sagaz_lab.sources' has this name")


def open_publisher(spec: SourceSpec, but_not: Container[str] | None = ()) -> Publisher | None:
    """The publisher to these settings' broker, not yet entered.

    None for a kind without one or in `but_not` (None: any kind): without a real source, nothing is published to its
    broker either. Raises `SourceNotReady` if its library is missing.
    """
    if but_not is None or spec.kind in but_not or spec.kind not in PUBLISHERS:
        return None
    publisher: Publisher = _load(PUBLISHERS[spec.kind])(spec.settings)
    return publisher


def _load(target: str) -> Callable[..., Any]:
    module, name = target.split(":")
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        if not library or library == __package__.partition(".")[0]:
            raise
        extra = EXTRAS.get(library)
        cure = f"'sagaz-lab[{extra}]'" if extra else library
        raise SourceNotReady(f"{name} needs {library}: pip install {cure}") from error
    return found


def _made(owner: str, maker: Callable[..., Any], given: dict[str, Any]) -> Source:
    """Call a third-party maker and check that it returns a source."""
    try:
        source = maker(**given)
    except SagazLabError:
        raise
    except Exception as error:
        raise SourceNotReady(f"{owner} failed: {describe(error)}") from error
    return checked(owner, source)


def checked(owner: str, returned: Any) -> Source:
    """What code that is not ours has returned, if it is a source. Raises `DefinitionError`."""
    if inspect.iscoroutine(returned):
        returned.close()
        raise DefinitionError(f"{owner} is async; {_PLAIN}")
    if lacking := lacks(returned):
        raise DefinitionError(f"{owner} returned a {type(returned).__qualname__}, which is not a Source: {lacking}")
    source: Source = returned
    return source


def _name_of(maker: Any) -> str:
    return getattr(maker, "__qualname__", None) or repr(maker)
