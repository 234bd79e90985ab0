"""The table of stores. `open_store` imports the module of an address's store on demand."""

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
    """The store of an address, not opened yet: "memory", "sqlite:///lab.db", "postgresql://user:password@host/db".

    `artifacts` is the folder for values too large for the journal (default: beside the file; for a server
    `.sagaz_lab/artifacts-DB`). Raises `UnknownName` for an unknown kind, `StoreError` for a malformed address or a
    missing library.
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
