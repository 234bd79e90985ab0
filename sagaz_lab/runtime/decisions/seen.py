"""Who holds the claims of a batch's events."""

from __future__ import annotations

from sagaz_lab.abc import KEY_MARK, Refusal, WaitingEvent
from sagaz_lab.runtime.gates.pending_run import PendingRun

TAKEN, CAME = "its key is taken", "it has come before"

WAITING_ID = "h-"
"""The prefix of ids of events that wait in windows."""

HANGS = "?"
"""Has the claims of an event that hangs on a run of the batch: another event with one of them is decided after it."""

SPENT, WAITS = Refusal(spent=True), Refusal()


class Seen(dict[str, Refusal | str]):
    """The holders of a batch's claims: the store's answers, or runs and waiting events of the batch, by id."""

    def take(self, run: PendingRun) -> None:
        for claim in _claims_of(run):
            self[claim] = run.run_id

    def wait(self, event: WaitingEvent) -> None:
        for claim in _claims_of(event):
            self[claim] = event.id

    def leave(self, event: WaitingEvent | PendingRun, *, spent: bool) -> None:
        for claim in _claims_of(event):
            if spent and not claim.startswith(KEY_MARK):
                self[claim] = SPENT
            else:
                self.pop(claim, None)


def _claims_of(one: WaitingEvent | PendingRun) -> list[str]:
    claims = [one.claim, one.declared]
    if isinstance(one, PendingRun) and one.members:
        claims += [claim for member in one.members for claim in (member.claim, member.declared)]
    return [claim for claim in claims if claim is not None]


def taken_by(first: Refusal | str, *, by_key: bool) -> str:
    """A duplicate's reason, which names the first run and the remedy."""
    said, by, name = (TAKEN, "by", "key") if by_key else (CAME, "as", "id")
    if isinstance(first, Refusal) and first.first_run is None:
        if first.letter is not None:
            return (f"{said} {by} dead letter {first.letter}; lab.redrive({first.letter!r}) decides it again "
                    f"if the letter is open, and lab.forget(trigger, {name}) frees it if not")  # fmt: skip
        if first.spent:
            return "it has come before, and a later event took its place"
        return f"{TAKEN} by an event that waits" if by_key else f"{CAME} and waits"
    run = first.first_run if isinstance(first, Refusal) else first
    if isinstance(first, Refusal) and first.first_status is not None:
        run = f"{run} ({first.first_status})"
    return f"{said} {by} run {run}; lab.forget(trigger, {name}) frees it"
