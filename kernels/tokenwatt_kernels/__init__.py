"""Triton attention and matmul kernels, each with its naive reference, its correctness gate and its compile report.

Importing this package imports neither torch nor triton. A kernel is imported from its own folder, for example
`from tokenwatt_kernels.attention.prefill.call import prefill_attention`.
"""
