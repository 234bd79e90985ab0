"""Files and folders of a store are its user's alone, and nothing is unpickled that this store has not written."""

import json
import os
import pickle
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from sagaz_lab import Lab, Saga, action
from sagaz_lab.errors import ArtifactDamaged, StoreError
from sagaz_lab.stores import open_store
from sagaz_lab.stores.values.artifacts import Artifacts, codec_named
from sagaz_lab.stores.values.signing import Key, make_private


class Pickles:
    """A codec of a user's."""

    def dump(self, value, path):
        path.write_bytes(pickle.dumps(value))

    def load(self, path):
        return pickle.loads(path.read_bytes())


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def modes(folder: Path) -> dict[str, str]:
    return {str(it.relative_to(folder)): oct(stat.S_IMODE(it.stat().st_mode)) for it in folder.rglob("*")}


@pytest.fixture(params=[0o022, 0o000])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("artifacts", [None, "far/away/files"])
async def test_folders_and_files_that_we_make_are_private(tmp_path: Path, artifacts: str | None) -> None:
    store = open_store(
        f"sqlite:///{tmp_path}/deep/er/lab.db", artifacts=None if artifacts is None else tmp_path / artifacts
    )
    async with Lab(store):

        class Keeper(Saga):
            @action("keep", codec="joblib")
            async def keep(self, ctx):
                return {"model": object}

            @action("raw")
            async def raw(self, ctx):
                return {"raw": b"x" * 100_000}

        await Keeper().run({}, run_id="r")
        found = modes(tmp_path)
    assert "deep/er/lab.db.key" in found
    assert len([name for name in found if name.endswith((".bin", ".joblib"))]) == 2
    assert {name: mode for name, mode in found.items() if (tmp_path / name).is_dir() and mode != "0o700"} == {}
    assert {name: mode for name, mode in found.items() if (tmp_path / name).is_file() and mode != "0o600"} == {}


async def fitted(folder: Path, codec: object) -> str:
    async with Lab(f"sqlite:///{folder}/lab.db"):

        class Fit(Saga):
            saga_name = "fit"

            @action("train", codec=codec)
            async def train(self, ctx):
                return {"model": SimpleNamespace(n=3)}

        await Fit().run({}, run_id="r")
    return str(folder / "lab.db")


def edit_row(database: str, change) -> None:
    """The row that names the artifact, as somebody who may write to the database can change it."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in (("records", "value"), ("records", "changes")):
            for number, text in connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall():
                if text is not None and b"sha256" in (text if isinstance(text, bytes) else text.encode()):
                    packed = json.loads(text)
                    found = next(item for item in walk(packed) if "sha256" in item)
                    change(found)
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (json.dumps(packed).encode(), number)
                    )


def walk(packed):
    if isinstance(packed, dict):
        yield packed
        for item in packed.values():
            yield from walk(item)
    elif isinstance(packed, list):
        for item in packed:
            yield from walk(item)


@pytest.mark.parametrize("codec", ["joblib", Pickles()])
async def test_what_this_store_wrote_comes_back_in_another_process(tmp_path: Path, codec: object) -> None:
    await fitted(tmp_path, codec)
    assert Lab(f"sqlite:///{tmp_path}/lab.db").context("r")["model"] == SimpleNamespace(n=3)


@pytest.mark.parametrize("codec", ["joblib", Pickles()])
@pytest.mark.parametrize("how", ["other file", "unsigned", "other codec", "other key", "no key", "odd signature"])
async def test_an_edited_row_or_a_foreign_store_unpickles_nothing(tmp_path: Path, codec: object, how: str) -> None:
    database, root, harm = await fitted(tmp_path, codec), tmp_path / "artifacts", tmp_path / "harm"
    bomb = root / "r" / "bomb.joblib"
    bomb.write_bytes(pickle.dumps(Bomb(harm)))

    def change(packed):
        if how in ("other file", "unsigned", "odd signature"):
            data = bomb.read_bytes()
            packed.update(path="r/bomb.joblib", size=len(data), sha256=sha256(data).hexdigest())
        if how == "unsigned":
            del packed["signature"]
        if how == "odd signature":
            packed["signature"] = "é"
        if how == "other codec":
            packed["codec"] = f"{Pickles.__module__}:Pickles" if codec == "joblib" else "joblib"

    edit_row(database, change)
    if how == "other key":
        (tmp_path / "lab.db.key").write_text("00" * 32)
    if how == "no key":
        (tmp_path / "lab.db.key").unlink()
    with pytest.raises(ArtifactDamaged, match=r"was not written by this store.*lab\.db\.key"):
        _ = Lab(f"sqlite:///{database}").context("r")["model"]
    assert not harm.exists()
    assert how != "no key" or not (tmp_path / "lab.db.key").exists()


def test_a_key_is_made_once_by_however_many(tmp_path: Path) -> None:
    keys = [Key(tmp_path / "a" / "lab.db.key") for _ in range(16)]
    with ThreadPoolExecutor(8) as pool:
        signed = set(pool.map(lambda key: key.sign("fact", 1), keys))
    assert len(signed) == 1
    assert Key(keys[0].path).has_signed(signed.pop(), "fact", 1)
    assert [it.name for it in keys[0].path.parent.iterdir()] == ["lab.db.key"]


@pytest.mark.parametrize("text", ["", "no key", "00" * 31, "zz" * 32])
def test_a_damaged_key_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lab.db.key"
    path.write_text(text)
    with pytest.raises(StoreError, match="contains no key"):
        Artifacts(tmp_path / "artifacts", path).write("r", "model", codec_named("joblib"), 1)


def test_folders_that_were_there_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir(mode=0o755)
    make_private(tmp_path / "old" / "new" / "newer")
    make_private(tmp_path / "old" / "new" / "newer")
    assert modes(tmp_path) == {"old": "0o755", "old/new": "0o700", "old/new/newer": "0o700"}
