"""Engine `native`: our own decoder on our own kernels, small enough to read in an evening.

One step reads schedule -> prepare -> run -> postprocess (`serving`). In the order in which a reader meets them:

serving     one run: requests come in, steps go out, tokens come back
scheduler   who runs next, in which pages; `pages` knows who holds them, `sequence` and `table` what is under way
batch       a step as tensors, in one copy to the device
runner      launches steps and waits for none; `graphs` makes one launch of a step that only decodes
model       the decoder, made of `attention`, `mlp`, `linear` and `rotary`; `kv_cache` is what it remembers
scoring     the same steps over tokens that are given, for whoever asks how probable they were
sampling    from logits to tokens; `sampling_batch` and `noise` are what it is told and what it draws from
hub         finds models and weights by name
loading     from a spec to a model on a device: `weights` names the tensors, `checkpoint` reads or makes them, `memory`
            says beforehand what they take, `requirements` what there are kernels for
parallel    the share of a rank, `followers` the processes of the others
accounting  what each step had to do
probes      typical steps of a run, whose kernel families are run again one by one; `recording` catches their calls
engine      all of it behind the protocol of engines; `options` are its settings
"""
