"""`make bench ARGS="--against REV"`: when a change of speed is called a fall."""

import random
from pathlib import Path

import pytest

from tests.benchmarks.earlier import FALL, ROUNDS, Change, NoSuchCommit, outer, speed, unpack
from tests.benchmarks.measuring import Figure
from tests.benchmarks.rows import COMPARISONS


def test_the_interval_of_nine_rounds_leaves_out_one_on_each_side() -> None:
    assert outer(ROUNDS) == 1
    assert Change([0.1, *[1.0] * 7, 9.0]).interval == (1.0, 1.0)


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    draw = random.Random(7)
    for rounds in (9, 12, 21):
        covered = 0
        for _ in range(2_000):
            low, high = Change([draw.gauss(1.0, 0.2) for _ in range(rounds)]).interval
            covered += low <= 1.0 <= high
        assert covered / 2_000 > 0.94, rounds


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([FALL - 0.01] * 8 + [2.0], "fall"),
        ([FALL - 0.01] * 7 + [2.0] * 2, ""),
        ([1.0] * 9, ""),
        ([1.2] * 9, "rise"),
    ],
)
def test_a_fall_is_an_interval_that_lies_wholly_below(ratios: list[float], verdict: str) -> None:
    assert Change(ratios).verdict == verdict


def test_a_rate_and_a_time_that_get_worse_are_both_below_one() -> None:
    rate = next(row for row in COMPARISONS if row.unit == "events/s")
    time = next(row for row in COMPARISONS if row.unit == "ms")
    assert speed(rate, now=Figure(50.0, 1.0), before=Figure(100.0, 1.0)) == 0.5
    assert speed(time, now=Figure(10.0, 1.0), before=Figure(5.0, 1.0)) == 0.5


def test_the_package_of_an_earlier_commit_is_unpacked(tmp_path: Path) -> None:
    package = unpack("HEAD", tmp_path)
    assert (package / "sagaz_lab" / "__init__.py").is_file()
    assert not (package / "tests").exists()
    with pytest.raises(NoSuchCommit, match="no-such-commit"):
        unpack("no-such-commit", tmp_path)
