"""Engine `vllm`: vLLM in process, driven as its own server drives it (AsyncLLM, streaming).

In the order in which a reader meets them:

options     settings: those that have a name here, and any other argument of vLLM's
arguments   from a bench to the arguments that vLLM is started with
opening     imports vLLM with its log out of the way
log         where vLLM and its processes write, and how a failure's cause is found there
loop        a thread with the event loop that vLLM lives in
statistics  what vLLM says of each step: requests that run, prefix-cache hits
sampling    from a workload's sampling to vLLM's
run         one run: requests go in, tokens come back in the order of their time
processes   those that vLLM starts, and that end with it
worker      what is asked of vLLM's workers: which attention they took
scoring     log-probabilities of prompts, for a comparison of engines
engine      all of it behind the protocol of engines
attention   this project's attention kernels as a backend of vLLM, through its plug-in entry point
"""
