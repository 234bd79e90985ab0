"""The contents of one transaction of decisions."""

from __future__ import annotations

from collections.abc import Sequence

from sagaz_lab.abc import Acceptance, DeadLetter
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.outbox.publications import publication_of
from sagaz_lab.runtime.triggers.state import TriggerState


def acceptance(decisions: Sequence[Decided], now: float) -> Acceptance:
    """All that one transaction stores."""
    of_all = [letters_only(decided.state, decided.letters) for decided in decisions if decided.letters]
    return Acceptance(
        runs=[run for decided in decisions for run in decided.starts],
        dead=[letter for letters in of_all for letter in letters.dead],
        kept=[kept for decided in decisions for kept in decided.kept],
        waiting=[event for decided in decisions for event in decided.batch.waiting.values()],
        released=[event.id for decided in decisions for event in decided.released],
        withdrawn={run.run_id: it.state.compiled.spent_until(now) for it in decisions for run, _ in it.withdrawn},
        redriven=[redriven for decided in decisions for redriven in decided.redriven.values()],
        spent=[spent for decided in decisions for spent in decided.spent],
        publications=[publication for letters in of_all for publication in letters.publications],
        released_with={event.id: run_id for decided in decisions for event, run_id in decided.with_run},
    )


def letters_only(state: TriggerState, letters: Sequence[DeadLetter]) -> Acceptance:
    """Dead letters, with their publications."""
    topic = state.compiled.config.dead_letter_topic
    publications = [] if topic is None else [publication_of(letter, topic) for letter in letters]
    return Acceptance(dead=letters, publications=publications)
