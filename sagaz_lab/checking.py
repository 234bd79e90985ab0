"""Finds problems of a Lab's sagas without starting anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sagaz_lab.errors import SagazLabError, describe
from sagaz_lab.lab import Lab
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.model.trigger import specs_of
from sagaz_lab.runtime.outbox.publications import refuse_other_store
from sagaz_lab.runtime.registry.changes import SECRETS
from sagaz_lab.runtime.registry.fingerprint import fingerprint


def problems(lab: Lab, store: str) -> Mapping[str, list[str]]:
    """Problems by saga: errors that a start with this store would raise, and credentials in code.

    Creates no source and opens no store. Raises `StoreError` and `UnknownName` for an invalid address.
    """
    others = Lab(store, offline=True)
    return {name: list(_problems(lab, definition, others)) for name, definition in lab.sagas.items()}


def _problems(lab: Lab, definition: SagaDefinition, others: Lab) -> Iterator[str]:
    try:
        lab._triggers.load({definition.name: definition}, [definition.name])
    except Exception as error:  # noqa: BLE001  its `__init__` may raise anything
        yield _text(error)
    try:
        refuse_other_store(definition, others.store)
    except SagazLabError as error:
        yield _text(error)
    for trigger in definition.triggers.values():
        for spec in specs_of(trigger) if trigger.source is None else ():
            try:
                lab._opens.package.check(spec)
            except SagazLabError as error:
                yield f"{trigger.name}: {_text(error)}"
    if fingerprint(definition.cls, definition).has_secrets:
        yield f"{definition.name}: {SECRETS}"


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, SagazLabError) else describe(error)
