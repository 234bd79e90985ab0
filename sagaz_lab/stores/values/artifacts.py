"""Artifacts: values too large or unsuitable for the journal, one file each, beside the store.

A file is written under a temporary name, synced and renamed before the record that refers to it is committed, so a
record never names a missing file. Leftovers of a crash are in the run's folder and removed with it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote
from uuid import uuid4

from sagaz_lab.errors import ArtifactDamaged, DefinitionError
from sagaz_lab.model.awaiting import at_once
from sagaz_lab.stores.sql.damage import as_text
from sagaz_lab.stores.values.classes import address_of, find_class
from sagaz_lab.stores.values.signing import Key, make_private

LIBRARIES = {root: f"sagaz_lab.stores.values.codecs_{root}" for root in ("numpy", "pandas", "pyarrow")}
"""The module for each library's values, imported for the first such value."""

CODECS = {
    "npy": LIBRARIES["numpy"],
    "parquet": LIBRARIES["pandas"],
    "series": LIBRARIES["pandas"],
    "arrow": LIBRARIES["pyarrow"],
    "joblib": "sagaz_lab.stores.values.codecs_joblib",
}
SAFE = frozenset({"raw", "npy", "parquet", "series", "arrow"})
"""Codecs whose files hold only data. Any other file may run code when read, so it must be signed by this store."""

_CHUNK = 1 << 20


class Library(Protocol):
    """The interface of a module in `LIBRARIES`. `inline` returns a small value as JSON data, or None."""

    codecs: tuple[Any, ...]

    def inline(self, value: Any) -> dict[str, Any] | None: ...

    def restore(self, packed: dict[str, Any]) -> Any: ...


def library_of(kind: type) -> str | None:
    """The known library that defines the class or one of its bases, if any."""
    for base in kind.__mro__:
        root = base.__module__.partition(".")[0]
        if root in LIBRARIES:
            return root
    return None


def library(root: str) -> Library:
    """Import the library's module. Raises `DefinitionError` if the library is not installed."""
    module: Any = _import(root, LIBRARIES[root])
    return module  # type: ignore[no-any-return]


class Raw:
    """Raw bytes."""

    name = "raw"
    suffix = ".bin"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, bytes)

    def dump(self, value: Any, path: Path) -> None:
        path.write_bytes(value)

    def load(self, path: Path) -> Any:
        return path.read_bytes()


RAW = Raw()


def codec_named(name: str) -> Any:
    """A built-in codec, or the user's codec by the address of its class. Raises `DefinitionError`."""
    if name == RAW.name:
        return RAW
    if name not in CODECS:
        return find_class(name)()
    return next(codec for codec in _import(name, CODECS[name]).codecs if codec.name == name)


def _import(name: str, module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise DefinitionError(f"a value stored as {name!r} needs {error.name}: pip install {error.name}") from error


class Artifacts:
    """The files of a store's values, in one folder per run. `key` is the file with the signing key."""

    def __init__(self, root: Path, key: Path) -> None:
        self.root = root
        self._key = Key(key)

    def folder(self, run_id: str) -> Path:
        """The folder of a run's files; safe for any id."""
        name = quote(as_text(run_id), safe="", errors="backslashreplace").replace(".", "%2E")
        return self.root / (name if len(name) <= 150 else hashlib.sha256(name.encode()).hexdigest())

    def write(self, run_id: str, key: str, codec: Any, value: Any) -> dict[str, Any]:
        """Write the value durably. Returns the argument for `read`. Raises `OSError` and the codec's errors."""
        folder = self.folder(run_id)
        make_private(folder)
        label = re.sub(r"[^A-Za-z0-9_-]+", "_", key)[:60]
        final = folder / f"{label}-{uuid4().hex[:12]}{getattr(codec, 'suffix', '.bin')}"
        draft = final.with_name(f".{final.name}")
        try:
            at_once(codec.dump(value, draft), f"dump() of the codec of {key!r}")
            size, digest = _sync(draft)
            draft.rename(final)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        _sync_folder(folder)
        name = getattr(codec, "name", None)
        packed = {
            "codec": name if name in (*CODECS, RAW.name) else address_of(type(codec)),
            "path": f"{folder.name}/{final.name}",
            "size": size,
            "sha256": digest,
        }
        return packed if packed["codec"] in SAFE else {**packed, "signature": self._key.sign(*_facts(packed))}

    def read(self, packed: dict[str, Any], codec: Any = None) -> Any:
        """Verify and load the value. Raises `ArtifactDamaged`, also for another store's file."""
        path = self.root / packed["path"]
        try:
            size, digest = _measure(path)
        except OSError as error:
            raise ArtifactDamaged(f"the artifact {path} cannot be read: {error.strerror}") from error
        if (size, digest) != (packed["size"], packed["sha256"]):
            raise ArtifactDamaged(
                f"the artifact {path} has changed since it was written: {size} bytes, {packed['size']} expected"
            )
        if packed["codec"] not in SAFE and not self._key.has_signed(packed.get("signature"), *_facts(packed)):
            raise ArtifactDamaged(
                f"the artifact {path} was not written by this store, or the key {self._key.path} has changed; reading "
                "it could run foreign code: restore the key, or run the action again"
            )
        known = packed["codec"] in (*CODECS, RAW.name)
        chosen = codec if codec is not None and not known else codec_named(packed["codec"])
        return at_once(chosen.load(path), f"load() of the codec {packed['codec']!r}")

    def remove(self, run_id: str) -> None:
        """Delete the files of a run."""
        folder = self.folder(run_id)
        if os.path.lexists(folder):  # most runs have no files, which this detects faster
            shutil.rmtree(folder, ignore_errors=True)


def _facts(packed: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(packed[name] for name in ("codec", "path", "size", "sha256"))


def _measure(path: Path) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()


def _sync(path: Path) -> tuple[int, str]:
    path.chmod(0o600)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return _measure(path)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    for path in (folder, folder.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
