"""RMS normalisation of rows, with a residual and a float8 answer. The public functions are in `call`."""
