"""`python -m coinmesh_local.provision NAME…`: brings what is named; for commands run at start."""

import logging
import sys
from functools import partial

from coinmesh_local.provision import ProvisionError, ensure
from meshkit import logs

if __name__ == "__main__":
    logs.configure_command()
    try:
        ensure(sys.argv[1:], partial(logs.tell, __name__))
    except ProvisionError as error:
        logs.tell(__name__, str(error), logging.ERROR)
        sys.exit(1)
