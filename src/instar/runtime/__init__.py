"""Inside a generation: zygote, workers, scoreboard, draining. Standard library only."""
