"""`python -m tests.benchmarks [--small] [--only NAME]`: every comparison in one run, a table and build/bench.json.

Ours and its baselines are measured by turns, each in a process of its own, and the ratio is that of the medians,
because the speed of a shared machine drifts. A missed goal is shown, not an error; the exit status is 1 only if
something could not be measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.rows import COMPARISONS, Against, Call, Comparison
from tests.benchmarks.streams import redis_server

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
ROUNDS = 5
WIDTH = 150
"""Columns of the table where there is no terminal to ask, as in a log of CI."""
# The longest measurement takes about a minute on two slow cores.
TIMEOUT_S = 300.0


class Unmeasured(Exception):
    """A measurement failed; says which and with what last words."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison's figures, medians in the row's unit."""

    comparison: Comparison
    against: Against
    ours: float
    baseline: float

    @property
    def ratio(self) -> float:
        return self.ours / self.baseline

    def as_json(self) -> dict[str, Any]:
        goal = self.against.goal
        return {
            "name": self.comparison.name,
            "unit": self.comparison.unit,
            "ours": round(self.ours, 3),
            "baseline_name": self.against.name,
            "baseline": round(self.baseline, 3),
            "ratio": round(self.ratio, 3),
            "goal": goal and round(goal.limit(self.baseline), 3),
            "bound": goal and goal.bound,
            "met": goal and goal.met(self.ratio, self.baseline),
        }


def main() -> int:
    arguments = parse()
    chosen = [row for row in COMPARISONS if arguments.only.lower() in row.name.lower()]
    if not chosen:
        print(f"no comparison is named {arguments.only!r}; there are: {', '.join(row.name for row in COMPARISONS)}")
        return 2
    BUILD.mkdir(exist_ok=True)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    rows: list[Row] = []
    failures: list[str] = []
    with ExitStack() as stack:
        resources = Resources(stack)
        for comparison in chosen:
            with console.status(comparison.name):
                done, failed = compare(comparison, resources, small=arguments.small, rounds=arguments.rounds)
            rows += done
            failures += failed
    show(console, rows, failures, small=arguments.small)
    goals = [row.as_json() for row in rows if row.against.goal]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(goals, indent=2) + "\n")
    return 1 if failures else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Ours beside the baselines.")
    parser.add_argument("--small", action="store_true", help="little work, one round: shows only that all of it runs")
    parser.add_argument("--only", default="", metavar="NAME", help="only comparisons whose name contains this")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds of each comparison (default {ROUNDS})")
    parser.add_argument("--output", type=Path, default=BUILD / "bench.json", metavar="FILE")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.small else ROUNDS)
    return arguments


class Resources:
    """What measurements need from outside, made at the first use and removed at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._url: str | None = None
        # Below build/, not /tmp: that may be memory, where a commit costs nothing.
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=BUILD)))
        self._files = 0

    def options(self, needs: Sequence[str]) -> Mapping[str, str]:
        found: dict[str, str] = {}
        if "path" in needs:
            self._files += 1
            found["path"] = str(self._folder / f"{self._files}.db")
        if "url" in needs:
            self._url = self._url or self._stack.enter_context(redis_server())
            found["url"] = self._url
        return found


def compare(comparison: Comparison, resources: Resources, *, small: bool, rounds: int) -> tuple[list[Row], list[str]]:
    """The rows that could be measured, and what failed. One that fails is not tried again."""
    calls = [comparison.ours, *(against.call for against in comparison.against)]
    names = ["ours", *(against.name for against in comparison.against)]
    figures: list[list[float]] = [[] for _ in calls]
    failed: dict[int, str] = {}
    for _ in range(min(rounds, comparison.rounds or rounds)):
        for number, call in enumerate(calls):
            if number in failed:
                continue
            try:
                figures[number].append(measure(call, resources, small=small))
            except (Unmeasured, OSError, RuntimeError) as error:
                failed[number] = f"{comparison.name}: {names[number]}: {error}"
    rows = [
        Row(comparison, against, statistics.median(figures[0]), statistics.median(figures[number]))
        for number, against in enumerate(comparison.against, start=1)
        if not failed.keys() & {0, number}
    ]
    return rows, list(failed.values())


def measure(call: Call, resources: Resources, *, small: bool) -> float:
    """One figure, from a process of its own. Raises `Unmeasured`."""
    options = json.dumps({**call.options, **resources.options(call.needs)})
    n = call.small if small else call.n
    command = [sys.executable, "-m", "tests.benchmarks.measure", call.module, str(n), options]
    try:
        done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Unmeasured(f"no figure after {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        last_words = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise Unmeasured(last_words[0])
    return float(done.stdout.splitlines()[-1])


def show(console: Console, rows: Sequence[Row], failures: Sequence[str], *, small: bool) -> None:
    table = Table(title="small: not for comparison" if small else None, title_justify="left")
    for column in ("", "ours", "baseline", "", "ratio", "goal", ""):
        table.add_column(column, justify="left" if not column else "right")
    table.columns[2].justify = "left"
    for row in rows:
        goal = row.against.goal
        wanted = f"{goal.bound} {goal.limit(row.baseline):.3g}" if goal else ""
        verdict = ("met" if goal.met(row.ratio, row.baseline) else "missed") if goal else ""
        table.add_row(
            f"{row.comparison.name} [{row.comparison.unit}]".replace("[", "\\["),
            figure(row.ours), row.against.name, figure(row.baseline), f"{row.ratio:.3g}", wanted, verdict,
        )  # fmt: skip
    console.print(table)
    for failure in failures:
        console.print(f"not measured: {failure}", style="red", markup=False)


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}"


if __name__ == "__main__":
    sys.exit(main())
