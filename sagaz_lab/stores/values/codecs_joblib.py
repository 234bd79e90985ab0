"""The joblib codec, for values that the user chose to pickle. `Artifacts` loads only files this store signed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib


class Joblib:
    name = "joblib"
    suffix = ".joblib"

    def accepts(self, value: Any) -> bool:
        return True

    def dump(self, value: Any, path: Path) -> None:
        joblib.dump(value, path)

    def load(self, path: Path) -> Any:
        return joblib.load(path)


codecs = (Joblib(),)
