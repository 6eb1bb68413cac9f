"""The raw archive: manifests of its objects, and their readers."""
