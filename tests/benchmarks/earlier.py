"""`--against REV`: this checkout beside an earlier commit of it, by turns, as the median of paired ratios.

Both are measured by the benchmarks of this checkout. A pair is measured within the same minute, so that its ratio
holds where the machine's speed drifts; which of the two goes first alternates.
"""

from __future__ import annotations

import io
import statistics
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

from tests.benchmarks.measuring import ROOT, Figure, Resources, Unmeasured, measure
from tests.benchmarks.rows import Comparison

ROUNDS = 9
"""At least so many: fewer give no interval that is worth a verdict."""

FALL = 0.95
"""A fall is an interval that lies wholly below."""

COVERAGE = 0.95


class NoSuchCommit(Exception):
    """The commit to compare with is not there, or has no package."""


def unpack(revision: str, folder: Path) -> Path:
    """The package of that commit, below the folder. Raises `NoSuchCommit`."""
    done = subprocess.run(["git", "archive", revision, "sagaz_lab"], check=False, cwd=ROOT, capture_output=True)
    if done.returncode:
        raise NoSuchCommit(f"--against {revision}: {done.stderr.decode().strip()}")
    into = folder / "earlier"
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(into, filter="data")
    return into


@dataclass(frozen=True, slots=True)
class Change:
    """Ratios of speed, one a round: now by before, so that 1 is no change and less is slower (or larger)."""

    ratios: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """Covers the median of all possible rounds with a probability of `COVERAGE` at least, by order statistics."""
        ordered = sorted(self.ratios)
        skipped = outer(len(ordered))
        return ordered[skipped], ordered[-1 - skipped]

    @property
    def verdict(self) -> str:
        low, high = self.interval
        return "fall" if high < FALL else "rise" if low > 1 / FALL else ""


def outer(rounds: int) -> int:
    """How many of the ordered ratios may be left out on each side, so that the others still cover the median."""
    skipped = 0
    while 2 * (skipped + 1) < rounds and _covered(rounds, skipped + 1) >= COVERAGE:
        skipped += 1
    return skipped


def _covered(rounds: int, skipped: int) -> float:
    """The probability that the median lies between the ratios that are left: each lies below it as a coin falls."""
    return 1.0 - 2.0 * sum(comb(rounds, below) for below in range(skipped + 1)) / 2.0**rounds


def speed(comparison: Comparison, now: Figure, before: Figure) -> float:
    """Now by before: of rates as they are, of times and sizes the other way round."""
    more_is_better = comparison.unit.endswith("/s")
    return now.value / before.value if more_is_better else before.value / now.value


def compare(
    comparison: Comparison, package: Path, resources: Resources, *, small: bool, rounds: int
) -> tuple[Change, Change]:
    """The change of the figure, and of the processor time. Raises `Unmeasured`."""
    figures: list[float] = []
    processor: list[float] = []
    for number in range(rounds):
        pair: dict[Path, Figure] = {}
        for folder in (package, ROOT) if number % 2 else (ROOT, package):
            try:
                pair[folder] = measure(comparison.ours, resources, small=small, package=folder)
            except Unmeasured as error:
                which = "now" if folder is ROOT else "before"
                raise Unmeasured(f"{comparison.name}: {which}: {error}") from None
        now, before = pair[ROOT], pair[package]
        figures.append(speed(comparison, now, before))
        processor.append(before.processor_s / now.processor_s)
    return Change(figures), Change(processor)
