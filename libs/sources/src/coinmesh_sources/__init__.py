"""Runtime shared by all collectors: inputs, recording, checkpoints, gaps and operations."""
