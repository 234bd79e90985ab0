"""Where runs are kept. `open_store` finds the store that an address names; only then is its module imported."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sagaz_lab.abc import Store
from sagaz_lab.errors import StoreError, UnknownName

if TYPE_CHECKING:
    from pathlib import Path

STORES = {
    "memory": "sagaz_lab.stores.memory.store:open_memory",
    "sqlite": "sagaz_lab.stores.sql.sqlite_driver:open_sqlite",
}
NOT_BUILT = frozenset({"postgresql"})


def open_store(address: str, *, artifacts: str | Path | None = None, retention_days: float = 30.0) -> Store:
    """The store of an address, not opened: "memory", "sqlite:///lab.db", "sqlite:////data/lab.db", "sqlite:///~/lab.db".

    `artifacts` is the folder for values too large for the journal; by default it is beside the store. Raises
    `UnknownName` with the known kinds, `StoreError` for an address that is malformed or not built yet.
    """
    kind = address.partition(":")[0].partition("+")[0]
    if kind in NOT_BUILT:
        raise StoreError(f"a {kind} store is not built yet; use 'sqlite:///lab.db' or 'memory'")
    if kind not in STORES:
        raise UnknownName(f"store {address!r}", "kind of store", kind, STORES)
    module, _, name = STORES[kind].partition(":")
    store: Store = getattr(import_module(module), name)(address, artifacts, retention_days)
    return store
