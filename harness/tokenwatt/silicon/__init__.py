"""The pass over a real GPU, `make silicon`: steps of at most eight minutes that can be taken up again.

`table` has the steps, each a `step`; `passing` runs them by `process` and keeps their `state`; `suites` holds what they
measure against the GPU before there is one. `place` says which tree, packages and board a result is of, `found` what it
says; `kernel_flags` keeps what the kernels' commands take.
"""
