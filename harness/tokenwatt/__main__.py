"""Lets `python -m tokenwatt` stand in for the `tokenwatt` command on a tree that is not installed."""

from tokenwatt.cli import main

if __name__ == "__main__":
    main()
