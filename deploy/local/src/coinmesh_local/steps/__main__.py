"""`python -m coinmesh_local.steps NAME`: run one deploy step with settings from COINMESH_…"""

import logging
import os
import sys

from coinmesh_local.steps.dispatch import run
from coinmesh_local.steps.errors import StepError
from meshkit import logs


def main() -> int:
    """Return exit status 0 when the step succeeded, 1 when it failed."""
    logs.configure(sys.argv[1], os.environ.get("COINMESH_LOG_LEVEL", "INFO"))
    try:
        run(sys.argv[1], os.environ)
    except StepError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
