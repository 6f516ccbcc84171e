"""The experts of each token, and rows sorted by expert. The public function is in `call`."""
