"""Rotary embedding of queries and keys, which are appended to a paged cache. The public functions are in `call`."""
