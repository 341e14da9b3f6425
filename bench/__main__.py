"""`python -m bench`: all benchmarks."""

from bench.all import main

main()
