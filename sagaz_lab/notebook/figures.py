"""Gives matplotlib figures from actions of background runs to the run instead of a cell.

pyplot keeps one process-wide list of open figures, so actions and cells would show, close or draw on each other's.
Here each action has its own list, and the cells share another.
"""

from __future__ import annotations

import sys
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping, ValuesView
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from io import BytesIO
from types import ModuleType
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from sagaz_lab.errors import describe
from sagaz_lab.model.log import RunLog
from sagaz_lab.model.step import Step
from sagaz_lab.notebook.outputs import in_background

PYLAB = "matplotlib._pylab_helpers"


class OpenFigures(MutableMapping[Any, Any]):
    """pyplot's open figures by number: those of the current action, else those of the cells."""

    def __init__(self, of_cells: OrderedDict[Any, Any]) -> None:
        self.of_cells = of_cells
        self._of_steps: dict[int, tuple[Step, RunLog, OrderedDict[Any, Any]]] = {}

    def _here(self) -> OrderedDict[Any, Any]:
        step = in_background()
        if step is None:
            return self.of_cells
        known = self._of_steps.get(id(step))
        if known is None:  # fetch the log now: an ended run creates none
            known = self._of_steps[id(step)] = (step, step.run.log, OrderedDict())
        return known[2]

    def take_ended(self) -> Iterator[tuple[Step, RunLog, Any]]:
        """Remove and return the figures of ended actions."""
        for key, (step, log, figures) in list(self._of_steps.items()):
            if step.run.steps.get(step.name) is not step:
                del self._of_steps[key]
                yield from ((step, log, manager) for manager in figures.values())

    def __getitem__(self, number: Any) -> Any:
        return self._here()[number]

    def __setitem__(self, number: Any, manager: Any) -> None:
        self._here()[number] = manager

    def __delitem__(self, number: Any) -> None:
        del self._here()[number]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._here())

    def __len__(self) -> int:
        return len(self._here())

    def values(self) -> ValuesView[Any]:
        return self._here().values()  # pyplot iterates in reverse

    def move_to_end(self, number: Any) -> None:
        self._here().move_to_end(number)


class Figures:
    """The open figures of background actions."""

    def __init__(self) -> None:
        self._pylab: Any = None
        self._open: OpenFigures | None = None
        self._finder = _Finder(self.watch)

    def route(self, shell: InteractiveShell) -> Callable[[], None]:
        """Install it. Returns a function that uninstalls it."""
        sys.meta_path.insert(0, self._finder)
        if (loaded := sys.modules.get(PYLAB)) is not None:
            self.watch(loaded)
        shell.events.register("pre_execute", self.collect)
        shell.events.register("post_execute", self.collect)
        return partial(self._undo, shell)

    def watch(self, pylab: Any) -> None:
        """Separate the figures. Called once matplotlib is imported."""
        if self._pylab is None:
            self._pylab = pylab
            self._open = pylab.Gcf.figs = OpenFigures(pylab.Gcf.figs)

    def collect(self) -> None:
        """Give figures of ended actions to their runs."""
        for step, log, manager in self._open.take_ended() if self._open is not None else ():
            log.display(step.name, _picture(manager.canvas.figure))
            manager.destroy()

    def _undo(self, shell: InteractiveShell) -> None:
        self.collect()
        if self._open is not None and self._pylab.Gcf.figs is self._open:
            self._pylab.Gcf.figs = self._open.of_cells
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        shell.events.unregister("pre_execute", self.collect)
        shell.events.unregister("post_execute", self.collect)


def _picture(figure: Any) -> dict[str, Any]:
    try:
        file = BytesIO()
        figure.savefig(file, format="png", bbox_inches="tight")
    except Exception as error:  # noqa: BLE001  user code may raise anything
        return {"text/plain": f"a figure that cannot be drawn: {describe(error)}"}
    return {"image/png": b64encode(file.getvalue()).decode(), "text/plain": repr(figure)}


class _Finder(MetaPathFinder):
    """Notices the import of matplotlib's list of figures."""

    def __init__(self, notify: Callable[[Any], None]) -> None:
        self._notify = notify

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != PYLAB:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Notifying(spec.loader, self._notify)
        return spec


class _Notifying(Loader):
    def __init__(self, loader: Any, notify: Callable[[Any], None]) -> None:
        self._loader = loader
        self._notify = notify

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._notify(module)
