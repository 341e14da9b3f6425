"""Named background handlers: what runs inside their processes. Standard library only."""
