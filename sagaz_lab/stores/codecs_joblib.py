"""What the user chose to pickle. A file is read back only where its checksum is the one in our journal."""

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
