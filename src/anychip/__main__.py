"""`python -m anychip`."""

from anychip.cli import main

main()
