"""Readers of other servers' configuration files."""
