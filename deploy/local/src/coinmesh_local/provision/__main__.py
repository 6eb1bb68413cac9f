"""`python -m coinmesh_local.provision NAME…`: brings what is named; for commands run at start."""

import sys

from coinmesh_local.provision import ProvisionError, ensure

if __name__ == "__main__":
    try:
        ensure(sys.argv[1:], lambda text: print(text, flush=True))
    except ProvisionError as error:
        sys.exit(str(error))
