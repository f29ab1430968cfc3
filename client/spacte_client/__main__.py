"""`python -m spacte_client`: the `spacte` command of the interpreter that runs it."""

from .cli import main

main()
