"""Programs that each use one library."""
