"""Matmul of rows sorted by expert with one weight per expert. The public functions are in `call`."""
