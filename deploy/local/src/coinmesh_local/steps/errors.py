"""Error of a deploy step."""


class StepError(Exception):
    """Raised when a step cannot reach its result; the message states the correction."""
