"""Why a deploy step stopped."""


class StepError(Exception):
    """What the step wants cannot be reached as things are; the message says what to correct."""
