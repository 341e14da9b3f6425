"""Durable jobs: commands and callables that are run once each, whatever is restarted meanwhile."""
