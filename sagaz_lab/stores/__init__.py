"""Where runs are kept. `open_store` finds the store that an address names; only then is its module imported."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sagaz_lab.abc import Store
from sagaz_lab.errors import StoreError, UnknownName
from sagaz_lab.texts import masked_address

if TYPE_CHECKING:
    from pathlib import Path

STORES = {
    "memory": "sagaz_lab.stores.memory.store:open_memory",
    "sqlite": "sagaz_lab.stores.sql.sqlite_driver:open_sqlite",
    "postgresql": "sagaz_lab.stores.sql.postgres_driver:open_postgres",
}


def open_store(address: str, *, artifacts: str | Path | None = None, retention_days: float = 30.0) -> Store:
    """The store of an address, not opened: "memory", "sqlite:///lab.db", "postgresql://user:password@host/db".

    `artifacts` is the folder for values too large for the journal; by default it is beside the file, and for a server
    `.sagaz_lab/artifacts-DB`. Raises `UnknownName` with the known kinds, `StoreError` for an address that is malformed
    and for a library that is not installed.
    """
    kind = address.partition(":")[0].partition("+")[0]
    if kind not in STORES:
        raise UnknownName(f"store {masked_address(address)!r}", "kind of store", kind, STORES)
    module, _, name = STORES[kind].partition(":")
    try:
        opener = getattr(import_module(module), name)
    except ImportError as error:
        if kind != "postgresql":
            raise
        raise StoreError(f"a postgresql store needs psycopg: pip install 'sagaz-lab[postgres]' ({error})") from error
    store: Store = opener(address, artifacts, retention_days)
    return store
