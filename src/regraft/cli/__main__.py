"""`python -m regraft.cli` is `regraft`."""

from regraft.cli import main

main()
