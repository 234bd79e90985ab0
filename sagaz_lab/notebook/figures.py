"""Figures that matplotlib's pyplot makes in an action of a background run: they go to the run, not into a cell.

The inline backend shows whatever figure is open in the cell that ends next. So a figure is noted as the action's when
it is made, and taken out of pyplot's list before a cell ends.
"""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Callable
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


class Figures:
    """The open figures of background actions."""

    def __init__(self) -> None:
        self._owners: dict[Any, tuple[Step, RunLog]] = {}
        self._pylab: Any = None
        self._hidden: dict[Any, Any] = {}
        self._stop_watching: Callable[[], None] | None = None
        self._finder = _Finder(self.watch)

    def route(self, shell: InteractiveShell) -> Callable[[], None]:
        """From now on. Returns what undoes this."""
        sys.meta_path.insert(0, self._finder)
        if (loaded := sys.modules.get(PYLAB)) is not None:
            self.watch(loaded)
        shell.events.register("pre_execute", self._begin)
        shell.events.register("post_run_cell", self._show)
        shell.events.callbacks["post_execute"].insert(0, self._hide)  # before the inline backend shows what is open
        return partial(self._undo, shell)

    def watch(self, pylab: Any) -> None:
        """Note whose figures are made. Called once matplotlib is there."""
        if self._pylab is None:
            self._pylab = pylab
            note = pylab.Gcf._set_new_active_manager

            def noted(manager: Any) -> Any:
                if (step := in_background()) is not None:
                    self._owners[manager] = (step, step.run.log)  # now: a run that has ended makes no log any more
                return note(manager)

            pylab.Gcf._set_new_active_manager = noted
            self._stop_watching = partial(setattr, pylab.Gcf, "_set_new_active_manager", note)

    def collect(self) -> None:
        """Give the figures of actions that have ended to their runs."""
        for manager, (step, log) in list(self._owners.items()):
            if step.run.steps.get(step.name) is not step:
                del self._owners[manager]
                if self._pylab.Gcf.figs.get(manager.num) is manager:  # else it was closed
                    log.display(step.name, _picture(manager.canvas.figure))
                    self._pylab.Gcf.destroy(manager)

    def _hide(self) -> None:
        self.collect()
        if self._owners:
            figs = self._pylab.Gcf.figs
            self._hidden = {manager.num: figs.pop(manager.num) for manager in self._owners if manager.num in figs}

    def _begin(self) -> None:
        self._show()
        self.collect()

    def _show(self, result: object = None) -> None:
        """Put back what was hidden from the inline backend, which has shown what is the cell's."""
        if self._hidden:
            self._pylab.Gcf.figs.update(self._hidden)
            self._hidden = {}

    def _undo(self, shell: InteractiveShell) -> None:
        self.collect()
        if self._stop_watching is not None:
            self._stop_watching()
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        shell.events.unregister("pre_execute", self._begin)
        shell.events.unregister("post_execute", self._hide)
        shell.events.unregister("post_run_cell", self._show)


def _picture(figure: Any) -> dict[str, Any]:
    try:
        file = BytesIO()
        figure.savefig(file, format="png", bbox_inches="tight")
    except Exception as error:  # noqa: BLE001  it is the user's
        return {"text/plain": f"a figure that cannot be drawn: {describe(error)}"}
    return {"image/png": b64encode(file.getvalue()).decode(), "text/plain": repr(figure)}


class _Finder(MetaPathFinder):
    """Tells when matplotlib's list of figures is imported."""

    def __init__(self, tell: Callable[[Any], None]) -> None:
        self._tell = tell

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != PYLAB:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Telling(spec.loader, self._tell)
        return spec


class _Telling(Loader):
    def __init__(self, loader: Any, tell: Callable[[Any], None]) -> None:
        self._loader = loader
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._tell(module)
