"""Read by Python at its start where this folder is on PYTHONPATH: the machine's name, as `EDGEKIT_DOUBLE` has it."""

import platform

from switches import NOW

if NOW.machine is not None:
    platform.machine = lambda: NOW.machine
