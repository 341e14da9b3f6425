"""Programs that ours is compared with."""
