"""Bars and indicators as a Spark stream, and the raw archive, built on one pure fold."""
