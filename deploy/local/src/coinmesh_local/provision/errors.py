"""Why something could not be provided."""


class ProvisionError(Exception):
    """Something the mesh needs is missing; the message names it and the way out."""
