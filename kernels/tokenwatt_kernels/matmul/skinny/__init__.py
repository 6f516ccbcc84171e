"""Matmul of few rows, which is a stream of the weight. The public function is `matmul.call.matmul`."""
