"""Bars and indicators as a Spark stream, and the raw archive, over one pure fold."""
