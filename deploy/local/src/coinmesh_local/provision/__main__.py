"""`python -m coinmesh_local.provision [--in-background] NAME…`: provide the named dependencies.

For commands that run at a component's start. In the background it runs at the lowest CPU and disk
priority.
"""

import logging
import sys
from functools import partial

import psutil

from coinmesh_local.provision import ProvisionError, ensure
from meshkit import logs

IN_BACKGROUND = "--in-background"
LOWEST_NICE = 19


def yield_to_others() -> None:
    """Give this process and its children the lowest priority for CPU and disk."""
    process = psutil.Process()
    process.nice(LOWEST_NICE)
    process.ionice(psutil.IOPRIO_CLASS_IDLE)


if __name__ == "__main__":
    logs.configure_command()
    names = [name for name in sys.argv[1:] if name != IN_BACKGROUND]
    if len(names) < len(sys.argv[1:]):
        yield_to_others()
    try:
        ensure(names, partial(logs.tell, __name__))
    except ProvisionError as error:
        logs.tell(__name__, str(error), logging.ERROR)
        sys.exit(1)
