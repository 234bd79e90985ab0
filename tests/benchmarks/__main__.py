"""`python -m tests.benchmarks [--small] [--only NAME] [--against REV]`: every comparison in one run, as a table.

Ours and its baselines are measured by turns, each in a process of its own, and the ratio is that of the medians,
because the speed of a shared machine drifts. The figures go to build/bench.json too. A missed goal is shown, not an
error; the exit status is 1 only if something could not be measured. With `--against` ours is measured beside ours of an
earlier commit, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import earlier
from tests.benchmarks.measuring import BUILD, Resources, Unmeasured, measure
from tests.benchmarks.rows import COMPARISONS, Against, Comparison

ROUNDS = 5
WIDTH = 150
"""Columns of the table where there is no terminal to ask, as in a log of CI."""


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
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    if arguments.against is not None:
        return beside(arguments, chosen, console)
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


def beside(arguments: argparse.Namespace, chosen: Sequence[Comparison], console: Console) -> int:
    """Ours beside ours of an earlier commit."""
    title = f"beside {arguments.against}, {arguments.rounds} rounds: 1 is no change, less is slower"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("speed", "95 %", "", "processor", "95 %", ""):
        table.add_column(column, justify="right")
    failures: list[str] = []
    with ExitStack() as stack:
        resources = Resources(stack)
        try:
            package = earlier.unpack(arguments.against, resources.folder)
        except earlier.NoSuchCommit as error:
            print(error)
            return 2
        for comparison in chosen:
            with console.status(comparison.name):
                try:
                    changes = earlier.compare(
                        comparison, package, resources, small=arguments.small, rounds=arguments.rounds
                    )
                except Unmeasured as error:
                    failures.append(str(error))
                    continue
            cells = [cell for change in changes for cell in change_cells(change, small=arguments.small)]
            table.add_row(comparison.name, *cells)
    console.print(table)
    for failure in failures:
        console.print(f"not measured: {failure}", style="red", markup=False)
    return 1 if failures else 0


def change_cells(change: earlier.Change, *, small: bool) -> tuple[str, str, str]:
    low, high = change.interval
    return f"{change.median:.3f}", f"{low:.3f} to {high:.3f}", "" if small else change.verdict


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Ours beside the baselines.")
    parser.add_argument("--small", action="store_true", help="little work, one round: shows only that all of it runs")
    parser.add_argument("--only", default="", metavar="NAME", help="only comparisons whose name contains this")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds of each comparison (default {ROUNDS})")
    parser.add_argument("--output", type=Path, default=BUILD / "bench.json", metavar="FILE")
    parser.add_argument(
        "--against", metavar="REV", help=f"beside this commit instead, in {earlier.ROUNDS} rounds or more"
    )
    arguments = parser.parse_args()
    least = 1 if arguments.against is None or arguments.small else earlier.ROUNDS
    if arguments.rounds is not None and arguments.rounds < least:
        parser.error(f"--rounds {arguments.rounds}: {least} at least")
    if arguments.rounds is None:
        arguments.rounds = 1 if arguments.small else ROUNDS if arguments.against is None else earlier.ROUNDS
    return arguments


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
                figures[number].append(measure(call, resources, small=small).value)
            except (Unmeasured, OSError, RuntimeError) as error:
                failed[number] = f"{comparison.name}: {names[number]}: {error}"
    rows = [
        Row(comparison, against, statistics.median(figures[0]), statistics.median(figures[number]))
        for number, against in enumerate(comparison.against, start=1)
        if not failed.keys() & {0, number}
    ]
    return rows, list(failed.values())


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
