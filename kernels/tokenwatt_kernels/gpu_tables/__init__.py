"""Measured tiles, one JSON file per GPU. `tokenwatt kernels tune` writes them, `tables` reads them; none ships yet."""
