"""This project's attention kernels as a backend of vLLM, so that they can be judged inside it: name `TOKENWATT`.

registration  what vLLM calls in each of its processes (entry point `vllm.general_plugins`)
backend       what the kernels can and what they lack, for vLLM to choose by
cache         vLLM's blocks as the pages that the kernels read
metadata      a step of vLLM as decodes and chunks
layer         attention of one layer
"""
