"""What collectors share: from recorded inputs to checkpoints, gaps and operations."""
