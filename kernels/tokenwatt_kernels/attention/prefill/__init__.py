"""Causal prefill attention over packed sequences. The public function is in `call`."""
