"""Deploy steps: idempotent functions that run between components' starts."""
