"""`python -m sandbox`: the command line."""

from sandbox.cli import main

main()
