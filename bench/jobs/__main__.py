"""`python -m bench.jobs`."""

from bench.common.report import main
from bench.jobs.program import __doc__ as description
from bench.jobs.program import run

main(run, description)
