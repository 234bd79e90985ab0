"""The current triggers of a Lab: the state of each, and the code that may run for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial

from sagaz_lab.abc import Acceptance, Ending
from sagaz_lab.errors import NO_EXCEPTIONS, DefinitionError, UnknownName, describe
from sagaz_lab.model.policy import TriggerConfig
from sagaz_lab.model.run import RunStatus
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.runtime.gates.admission import Slots
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.registry.registry import Registry
from sagaz_lab.runtime.triggers.barrier import Barrier
from sagaz_lab.runtime.triggers.compiled import CompiledTrigger
from sagaz_lab.runtime.triggers.outcomes import Tally
from sagaz_lab.runtime.triggers.state import TriggerState


class Triggers:
    """Every trigger's state by name, and the sagas that cannot run: left out, or without code."""

    def __init__(
        self, life: Lifetime, registry: Registry, default: TriggerConfig, tally: Tally, max_live_runs: int
    ) -> None:
        self._life = life
        self._tally = tally
        self._instances: dict[str, tuple[SagaDefinition, Saga]] = {}
        self.registry = registry
        self.default = default
        self.slots = Slots(max_live_runs)
        self.states: dict[str, TriggerState] = {}
        self.left_out: dict[str, SagaDefinition] = {}
        self.without_code: dict[str, dict[str, int]] = {}
        """By saga, the runs that wait for its code, each with its place in the queue (else 0)."""
        self.barrier = Barrier()
        self.fired: Counter[str] = Counter()
        """Fired events, by the identity that their source has in this process."""
        self.on_changed: Callable[[TriggerState], None] = _nobody
        self.on_removed: Callable[[TriggerState], None] = _nobody
        self.on_taken_over: Callable[[], None] = _nothing
        """Called after a postponed definition is taken over, because its trigger was deciding a batch."""

    def find(self, name: str) -> TriggerState:
        """The state of a registered trigger. Raises `UnknownName` with the nearest name."""
        if name not in self.states or self.states[name].removed:
            raise UnknownName("lab", "trigger", name, [it.name for it in self.states.values() if not it.removed])
        return self.states[name]

    def load(self, sagas: Mapping[str, SagaDefinition], news: Collection[str] = ()) -> None:
        """Take over the current definitions between batches, so that each event sees one revision.

        A saga that cannot be instantiated is left out and reported once; for one of the `news` the error is raised.
        """
        known = {name for name, it in self.left_out.items() if sagas.get(name) is it and name not in news}
        changed, failed = self._compile(sagas, known)
        for name, error in failed.items():
            if name in news:
                raise error
            text = f"saga {name!r} is left out: {describe(error)}; fix it, then start again"
            self._life.report(f"left out:{name}", text)
        self.left_out = {name: sagas[name] for name in known | failed.keys()}
        seen = {it.name for name in sagas.keys() - self.left_out.keys() for it in sagas[name].triggers.values()}
        for compiled in changed:
            name = compiled.trigger.name
            if (state := self.states.get(name)) is None:
                self.states[name] = TriggerState(compiled, self._tally.of(name), self.slots)
            elif state.deciding:
                state.removed = False
                if state.coming is None:
                    state.meanwhile.append(partial(self._take_over, state))
                state.coming = compiled
            else:
                state.use(compiled)
                self.on_changed(state)
        for name, state in self.states.items():
            if name not in seen and not state.removed:
                state.removed, state.coming = True, None
                self.on_removed(state)

    def _take_over(self, state: TriggerState) -> None:
        """The earlier revision has decided the current batch."""
        if state.coming is not None:
            state.use(state.coming)
            self.on_taken_over()

    def _compile(
        self, sagas: Mapping[str, SagaDefinition], but: Collection[str]
    ) -> tuple[list[CompiledTrigger], dict[str, Exception]]:
        """The triggers with another revision or no state, and the errors of sagas that cannot be instantiated."""
        changed: list[CompiledTrigger] = []
        failed: dict[str, Exception] = {}
        for definition in (sagas[name] for name in sagas if name not in but):
            try:
                instance = self.instance(definition)
                changed += [
                    CompiledTrigger(definition, trigger, instance, self.default)
                    for trigger in definition.triggers.values()
                    if (state := self.states.get(trigger.name)) is None
                    or (state.coming or state.compiled).definition is not definition
                    or state.removed
                ]
            except Exception as error:  # noqa: BLE001  errors of that saga's code only
                failed[definition.name] = error
        return changed, failed

    def instance(self, definition: SagaDefinition) -> Saga:
        """One instance per revision; runs keep no state in it. Raises `DefinitionError`."""
        known = self._instances.get(definition.name)
        if known is None or known[0] is not definition:
            try:
                known = (definition, definition.cls())
            except TypeError as error:
                raise DefinitionError(
                    f"{definition.name}: the class must be made without arguments: {error}"
                ) from error
            except NO_EXCEPTIONS as error:  # would end the process or the calling task
                raise DefinitionError(f"{definition.name}: its __init__ raises {describe(error)}") from error
            self._instances[definition.name] = known
        return known[1]

    def code_of(self, saga: str) -> SagaDefinition | None:
        """Its current definition, if it can run."""
        return None if saga in self.left_out else self.registry.current.get(saga)

    async def wait_for_code(self, run_id: str, saga: str, attempt: int, place: int = 0) -> None:
        """Park a run whose saga is not registered; it resumes when the saga is defined. Raises `StoreError`."""
        life = self._life
        await life.store.end(run_id, Ending(RunStatus.NEEDS_CODE), attempt=attempt, at=life.clock.now())
        self.without_code.setdefault(saga, {})[run_id] = place
        life.report(f"needs_code:{saga}", f"run {run_id} waits for the code of saga {saga!r}: define it")

    async def keep_counts(self) -> None:
        """Store how many events were refused since the last call. Raises `StoreError`; the next call has them then."""
        taken = [(state.name, state.counters, state.counters.take_reasons()) for state in self.states.values()]
        counts = {(name, *reason): times for name, _, reasons in taken for reason, times in reasons.items()}
        try:
            await self._life.store.accept(Acceptance(filtered=counts))
        except BaseException:
            for _, counters, reasons in taken:
                counters.give_back_reasons(reasons)
            raise


def _nobody(state: TriggerState) -> None:
    """Without a dispatcher."""


def _nothing() -> None:
    """Without sources."""
