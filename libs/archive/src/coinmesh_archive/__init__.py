"""The raw archive: manifests of its objects, and functions that read both."""
