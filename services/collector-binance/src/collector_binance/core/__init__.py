"""The pure core: frames in, framed events and commands out; no I/O, no clock."""
