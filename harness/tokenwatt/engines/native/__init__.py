"""Engine `native`: our own decoder on our own kernels, small enough to read in an evening.

One step reads schedule -> prepare -> run -> postprocess (`engine.py`). `scheduler` decides who runs, `kv_cache` holds
keys and values in pages, `batch` turns requests into tensors, `model` is the decoder, `weights` makes or loads it.
"""
