"""`%triggers wait`: shows, in the cell that waits, what happens in the background.

A notebook that is run without a front end loses what the tasks of earlier cells print, so it is told here again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from IPython.core.error import UsageError

from sagaz_lab.lab import Lab
from sagaz_lab.notebook.cards import outcome_line
from sagaz_lab.notebook.commands import COMMANDS, mistake
from sagaz_lab.notebook.reports import Reports

LOOK_EVERY_S = 0.25
LINES_AT_ONCE = 5
