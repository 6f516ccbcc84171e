"""Dense matmul with a weight in the layout of nn.Linear. The public function is in `call`."""
