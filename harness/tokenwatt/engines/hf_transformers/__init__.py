"""Engine `hf_transformers`: the same models through Hugging Face transformers, a baseline for the others.

In the order in which a reader meets them:

options     settings: which of the two modes, which attention
models      the model that transformers makes of the same config.json, its weights made on the device or read
sampling    from a workload's sampling to a generation config
batches     mode `generate`: a batch runs until its last request is done, then the next one begins
continuous  mode `continuous_batching`: transformers' own manager, to which requests are handed as others end
scoring     one plain forward pass over tokens that are given, for whoever asks how probable they were
engine      both behind the protocol of engines
"""
