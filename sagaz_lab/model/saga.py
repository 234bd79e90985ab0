"""Sagas: classes of actions and compensations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

from sagaz_lab.errors import DefinitionError, UnknownName
from sagaz_lab.model.context import SagaContext
from sagaz_lab.model.decorated import put_mark, refuse_bare, refuse_lost_methods, refuse_other_than_function
from sagaz_lab.model.host import host
from sagaz_lab.model.keys import refuse_long_name
from sagaz_lab.model.listener import HOOKS, Hooks, SagaListener, hooks_of
from sagaz_lab.model.params import ParamsOfTriggers, has_params
from sagaz_lab.model.policy import TriggerConfig, at_least, backoff, delay_after, positive
from sagaz_lab.model.signatures import accepts, positional
from sagaz_lab.model.trigger import MARK, Trigger, bind

F = TypeVar("F", bound=Callable[..., Any])
ROLE = "__sagaz_role__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One action as defined. `how` is the kind of its function."""

    name: str
    method_name: str
    depends_on: tuple[str, ...]
    timeout_s: float | None
    max_retries: int
    retry_backoff_s: tuple[float, ...]
    pivot: bool
    codec: Any
    how: Literal["coroutine", "thread", "stream"]

    def retry_delay_s(self, trial: int) -> float:
        """Seconds to wait after failed trial number `trial`, counted from 1."""
        return delay_after(self.retry_backoff_s, trial)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensation:
    """Undoes an action. With `takes_result` it also gets the action's result."""

    action: str
    method_name: str
    timeout_s: float
    max_retries: int
    takes_result: bool
    how: Literal["coroutine", "thread", "stream"]


@dataclass(frozen=True, slots=True)
class ForwardRecovery:
    """Decides about a failure after the pivot."""

    action: str
    method_name: str
    how: Literal["coroutine", "thread", "stream"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The order of the actions. `order` is topological, with ties in written order; `dependents` has all names.

    `linear` pairs each action with its successor if they form a chain of coroutines without time-outs and without
    listeners, which can simply run one after the other.
    """

    order: tuple[str, ...]
    roots: tuple[str, ...]
    dependents: Mapping[str, tuple[str, ...]]
    linear: tuple[tuple[Action, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaDefinition:
    """A compiled saga class, as the runtime reads it. The registry sets `revision` and `registered_at`."""

    name: str
    cls: type[Saga]
    actions: Mapping[str, Action]
    compensations: Mapping[str, Compensation]
    recoveries: Mapping[str, ForwardRecovery]
    triggers: Mapping[str, Trigger]
    plan: Plan
    listeners: tuple[SagaListener, ...]
    hooks: Hooks
    config: TriggerConfig | None
    on_failure: Literal["compensate", "hold"]
    revision: int = 0
    digest: str = field(default="", compare=False)
    source_text: str = field(default="", compare=False)
    registered_at: float = field(default=0.0, compare=False)

    def __repr__(self) -> str:
        return f"SagaDefinition({self.name} r{self.revision}: {', '.join(self.plan.order) or 'no actions'})"


def action(
    name: str | None = None,
    *,
    depends_on: Sequence[str] | str = (),
    timeout_s: float | None = None,
    max_retries: int = 0,
    retry_backoff_s: Sequence[float] | float = (0.1, 1.0, 10.0),
    pivot: bool = False,
    codec: Any = None,
) -> Callable[[F], F]:
    """Makes a method `(self, ctx)` an action; `name` defaults to the method's.

    It starts when all of `depends_on` have finished; independent actions run concurrently. `async def` runs on the
    loop, plain `def` in a worker thread; an async generator streams its records to the actions that depend on it. A
    trial longer than `timeout_s` seconds fails. A failed trial is retried up to `max_retries` times after
    `retry_backoff_s` (the last delay repeats). Once a `pivot` has finished, nothing is undone. `codec` stores results
    that JSON and the typed codecs cannot: "joblib", or an object with `dump(value, path)` and `load(path)`.
    """
    refuse_bare("action", name)

    def decorate(function: F) -> F:
        refuse_other_than_function(f"@action({name!r})", function)
        label = name or function.__name__
        decorator = f"@action({label!r})"
        owner = f"{decorator} on {function.__qualname__}"
        if not (name is None or (isinstance(name, str) and name.strip())):
            raise DefinitionError(f"{owner}: name={name!r} must be a non-empty string")
        if not accepts(function, 2):
            raise DefinitionError(f"{owner}: an action takes (self, ctx)")
        role = Action(
            name=label,
            method_name=function.__name__,
            depends_on=_names(owner, depends_on),
            timeout_s=timeout_s,
            max_retries=max_retries,
            retry_backoff_s=backoff(retry_backoff_s, f"{owner}: retry_backoff_s"),
            pivot=pivot,
            codec=codec,
            how=_how(function),
        )
        _refuse_wrong(owner, role)
        _take_role(decorator, function, role)
        return function

    return decorate


def _refuse_wrong(owner: str, role: Action) -> None:
    if not at_least(0, role.max_retries):
        raise DefinitionError(f"{owner}: max_retries={role.max_retries!r} must be a whole number, 0 or more")
    if role.how == "stream" and role.max_retries:
        raise DefinitionError(f"{owner}: max_retries= does not go with a stream, which cannot be rewound")
    if not (role.timeout_s is None or positive(role.timeout_s)):
        raise DefinitionError(f"{owner}: timeout_s={role.timeout_s!r} must be a number of seconds greater than 0")
    known = role.codec in (None, "joblib") or (hasattr(role.codec, "dump") and hasattr(role.codec, "load"))
    if not known:
        raise DefinitionError(
            f"{owner}: codec={role.codec!r} must be 'joblib' or have dump(value, path) and load(path)"
        )


def compensate(action_name: str, *, timeout_s: float = 30.0, max_retries: int = 3) -> Callable[[F], F]:
    """Makes a method `(self, ctx)` or `(self, ctx, result)` the compensation of an action, which undoes its effect.

    A trial longer than `timeout_s` seconds fails; a failed one is retried up to `max_retries` times. It is also called
    for an action that was interrupted: `result` is then `None`.
    """

    refuse_bare("compensate", action_name)
    decorator = f"@compensate({action_name!r})"

    def decorate(function: F) -> F:
        refuse_other_than_function(decorator, function)
        owner = f"{decorator} on {function.__qualname__}"
        takes_result = len(positional(function)) == 3
        if not accepts(function, 2 + takes_result):
            raise DefinitionError(f"{owner}: a compensation takes (self, ctx) or (self, ctx, result)")
        if not positive(timeout_s) or not at_least(0, max_retries):
            raise DefinitionError(f"{owner}: timeout_s must be greater than 0, max_retries a whole number, 0 or more")
        _take_role(
            decorator,
            function,
            Compensation(
                action=action_name,
                method_name=function.__name__,
                timeout_s=timeout_s,
                max_retries=max_retries,
                takes_result=takes_result,
                how=_how(function, stream=False),
            ),
        )
        return function

    return decorate


def forward_recovery(action_name: str) -> Callable[[F], F]:
    """Makes a method `(self, ctx, error)` decide when this action fails after the pivot.

    It returns "retry" (once more), "skip" (continue without it) or `None` (leave the run partially committed).
    """

    refuse_bare("forward_recovery", action_name)
    decorator = f"@forward_recovery({action_name!r})"

    def decorate(function: F) -> F:
        refuse_other_than_function(decorator, function)
        owner = f"{decorator} on {function.__qualname__}"
        if not accepts(function, 3):
            raise DefinitionError(f"{owner}: a forward recovery takes (self, ctx, error)")
        how = _how(function, stream=False)
        _take_role(decorator, function, ForwardRecovery(action_name, function.__name__, how))
        return function

    return decorate


def _names(owner: str, depends_on: Any) -> tuple[str, ...]:
    names = (depends_on,) if isinstance(depends_on, str) else depends_on
    if not (isinstance(names, Iterable) and all(isinstance(name, str) for name in names)):
        raise DefinitionError(f"{owner}: depends_on={depends_on!r} must be names of actions")
    return tuple(names)


def _how(function: Callable[..., Any], *, stream: bool = True) -> Literal["coroutine", "thread", "stream"]:
    if inspect.isasyncgenfunction(function) and stream:
        return "stream"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(f"{function.__qualname__}: only an action may be a generator, and it must be `async def`")
    return "coroutine" if inspect.iscoroutinefunction(function) else "thread"


def _take_role(decorator: str, function: Callable[..., Any], role: object) -> None:
    if hasattr(function, ROLE):
        owner = f"{decorator} on {function.__qualname__}"
        raise DefinitionError(f"{owner}: the method is already an action, a compensation or a recovery")
    put_mark(function, ROLE, role, decorator)


class Saga:
    """Base class of sagas. Subclassing registers the class in the current Lab, under `saga_name`.

    `class Base(Saga, abstract=True)` registers nothing; its triggers belong to its subclasses. `saga_name` defaults
    to the class name. With `on_failure = "hold"` a failed run is held, with nothing undone. Instances hold no state
    of a run, so runs on one instance do not interfere. Two decorated methods of one name raise `DefinitionError`.
    """

    saga_name: ClassVar[str] = ""
    listeners: ClassVar[Sequence[SagaListener]] = ()
    trigger_config: ClassVar[TriggerConfig | None] = None
    on_failure: ClassVar[Literal["compensate", "hold"]] = "compensate"
    params = ParamsOfTriggers()
    __definition__: ClassVar[SagaDefinition | None] = None
    __abstract__: ClassVar[bool] = True

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_lost_methods(cls)
        cls.__abstract__ = abstract
        if abstract:
            cls.__definition__ = None
            return
        cls.__definition__ = define(cls)
        host().register(cls)

    @classmethod
    def diff(cls, old: int, new: int) -> Any:
        """The difference between the code of two revisions; coloured in a notebook."""
        return host().diff(cls.__definition__.name if cls.__definition__ else cls.__name__, old, new)

    async def run(self, context: Mapping[str, Any] | None = None, run_id: str | None = None) -> SagaContext:
        """Run it once, without a trigger. Returns the context; on failure compensates and raises the error."""
        if not (context is None or hasattr(context, "keys")):  # an `Event` reads like a mapping
            raise DefinitionError(f"{type(self).__qualname__}.run: context={context!r} must be a mapping")
        return await host().run_saga(self, context or {}, run_id)


def define(cls: type[Saga]) -> SagaDefinition:
    """Compile the class. Raises `DefinitionError` naming the culprit."""
    name = cls.__dict__.get("saga_name") or cls.__name__
    if not isinstance(name, str) or not name.strip() or "." in name:
        raise DefinitionError(f"{cls.__qualname__}: saga_name={name!r} must be a string without '.'")
    refuse_long_name(f"{cls.__qualname__}: saga_name", name)
    if cls.__init__ is not object.__init__ and not accepts(cls.__init__, 1):  # the check is slow and most have none
        raise DefinitionError(f"{name}: the class must be made without arguments")
    if cls.on_failure not in ("compensate", "hold"):
        raise DefinitionError(f"{name}: on_failure={cls.on_failure!r} must be 'compensate' or 'hold'")
    if not (cls.trigger_config is None or isinstance(cls.trigger_config, TriggerConfig)):
        raise DefinitionError(f"{name}: trigger_config={cls.trigger_config!r} must be a TriggerConfig")
    members = _members(cls)
    actions = _by_name(name, "action", (r for r in _roles(members, Action)), lambda a: a.name)
    compensations = _by_name(name, "compensation for action", _roles(members, Compensation), lambda c: c.action)
    recoveries = _by_name(name, "forward recovery for action", _roles(members, ForwardRecovery), lambda r: r.action)
    for role in (*compensations.values(), *recoveries.values()):
        if role.action not in actions:
            raise UnknownName(f"{name}.{role.method_name}", "action", role.action, actions)
    triggers = {n: bind(name, n, m) for n, m in members.items() if hasattr(m, MARK) and _own_trigger(cls, n)}
    hooks = hooks_of(listeners := _listeners(name, cls))
    definition = SagaDefinition(
        name=name,
        cls=cls,
        actions=MappingProxyType(actions),
        compensations=MappingProxyType(compensations),
        recoveries=MappingProxyType(recoveries),
        triggers=MappingProxyType(triggers),
        plan=_plan(name, actions, hooked=bool(hooks)),
        listeners=listeners,
        hooks=hooks,
        config=cls.trigger_config,
        on_failure=cls.on_failure,
    )
    if has_params(definition) and cls.params is not Saga.params:
        raise DefinitionError(f"{name}: the class defines params, which trigger methods need for theirs; rename it")
    return definition


def _members(cls: type[Saga]) -> dict[str, Any]:
    """The methods, base classes first, in written order; an override takes its base's place."""
    members: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        members.update(vars(base))
    for name, member in members.items():
        function = getattr(member, "__func__", member)
        if not inspect.isfunction(member) and (hasattr(function, MARK) or hasattr(function, ROLE)):
            raise DefinitionError(f"{cls.__qualname__}.{name}: a trigger, action or compensation is a plain method")
    return {n: m for n, m in members.items() if inspect.isfunction(m)}


def _roles(members: Mapping[str, Any], kind: type[Any]) -> Iterable[Any]:
    """The methods' roles, under the methods' names in the class."""
    for name, member in members.items():
        if isinstance(role := getattr(member, ROLE, None), kind):
            yield replace(role, method_name=name)


def _by_name(saga: str, noun: str, roles: Iterable[Any], key: Callable[[Any], str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for role in roles:
        if key(role) in found:
            first = found[key(role)].method_name
            raise DefinitionError(f"{saga}: two methods for {noun} {key(role)!r}: {first}() and {role.method_name}()")
        found[key(role)] = role
    return found


def _own_trigger(cls: type[Saga], name: str) -> bool:
    """A base's trigger is inherited only from an abstract base; otherwise both classes would take each event."""
    owner = next(base for base in cls.__mro__ if name in vars(base))
    return owner is cls or not issubclass(owner, Saga) or owner.__abstract__


def _listeners(name: str, cls: type[Saga]) -> tuple[SagaListener, ...]:
    if not isinstance(cls.listeners, list | tuple):
        raise DefinitionError(f"{name}: listeners={cls.listeners!r} must be a list of SagaListener instances")
    for listener in cls.listeners:
        if not (isinstance(listener, SagaListener) or any(callable(getattr(listener, hook, None)) for hook in HOOKS)):
            raise DefinitionError(f"{name}: listeners has {listener!r}, which is not a SagaListener instance")
    return tuple(cls.listeners)


def _plan(saga: str, actions: Mapping[str, Action], *, hooked: bool) -> Plan:
    dependents: dict[str, list[str]] = {name: [] for name in actions}
    for one in actions.values():
        for needed in one.depends_on:
            if needed not in actions:
                raise UnknownName(f"{saga}: action {one.name!r} depends_on", "action", needed, actions)
            dependents[needed].append(one.name)
    order: list[str] = []
    waiting = {name: set(one.depends_on) for name, one in actions.items()}
    while waiting:
        free = [name for name, needs in waiting.items() if not needs]
        if not free:
            raise DefinitionError(
                f"{saga}: the actions depend on each other in a cycle: {' -> '.join(_cycle(waiting))}"
            )
        for name in free:
            order.append(name)
            del waiting[name]
        for needs in waiting.values():
            needs.difference_update(free)
    roots = tuple(name for name, one in actions.items() if not one.depends_on)
    chain = len(roots) == 1 and all(len(d) <= 1 for d in dependents.values())
    linear = chain and not hooked and all(one.how == "coroutine" and one.timeout_s is None for one in actions.values())
    return Plan(
        tuple(order),
        roots,
        MappingProxyType({n: tuple(d) for n, d in dependents.items()}),
        tuple((actions[name], tuple(dependents[name])) for name in order) if linear else (),
    )


def _cycle(waiting: Mapping[str, set[str]]) -> list[str]:
    path = [next(iter(waiting))]
    while path[-1] not in path[:-1]:
        path.append(min(waiting[path[-1]]))
    return path[path.index(path[-1]) :]
