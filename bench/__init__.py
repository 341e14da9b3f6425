"""Benchmarks: instar beside the servers that people use today. `make bench` runs them all; see docs/benchmarks.md."""
