"""Matmul with a weight of 4 bits, which becomes 16 bits in registers. The public functions are in `call`."""
