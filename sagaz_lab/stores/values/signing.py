"""Signs what this store has written: a keyed digest, with the key in a file beside the store.

A checksum in a row proves only that a file matches the row, which anyone who can edit the row can fake. The key is in
neither the rows nor the artifacts.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sagaz_lab.errors import StoreError

_BYTES = 32


class Key:
    """The key in a file that only its user can read, created at the first signature."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key: bytes | None = None

    def sign(self, *facts: object) -> str:
        """Raises `OSError`, and `StoreError` if the file contains no key."""
        if self._key is None:
            self._key = self._read() or self._make()
        return _digest(self._key, facts)

    def has_signed(self, signature: object, *facts: object) -> bool:
        """Whether this key signed the facts. Raises as `sign` does."""
        if self._key is None:
            self._key = self._read()
        if self._key is None or not (isinstance(signature, str) and signature.isascii()):
            return False
        return hmac.compare_digest(signature, _digest(self._key, facts))

    def _read(self) -> bytes | None:
        try:
            text = self.path.read_text("ascii", errors="replace").strip()
        except FileNotFoundError:
            return None
        with suppress(ValueError):
            if len(key := bytes.fromhex(text)) == _BYTES:
                return key
        raise StoreError(f"{self.path} contains no key of a store; restore it, or delete it and lose what it signed")

    def _make(self) -> bytes:
        """Create the key. If two processes race, both use the first one's file."""
        make_private(self.path.parent)
        key = secrets.token_bytes(_BYTES)
        draft = self.path.with_name(f".{self.path.name}-{secrets.token_hex(4)}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(f"{key.hex()}\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, self.path)
            except FileExistsError:
                return self._read() or key
        finally:
            draft.unlink(missing_ok=True)
        return key


def _digest(key: bytes, facts: Sequence[object]) -> str:
    return hmac.new(key, repr(facts).encode("utf-8", "backslashreplace"), "sha256").hexdigest()


def make_private(folder: Path) -> None:
    """Create the folder and its missing parents, accessible to the user only."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        if folder == folder.parent:
            break
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(mode=0o700, exist_ok=True)
