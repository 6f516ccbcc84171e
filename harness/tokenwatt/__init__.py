"""tokenwatt: what a token costs, in joules and dollars."""

__version__ = "0.1.0"
