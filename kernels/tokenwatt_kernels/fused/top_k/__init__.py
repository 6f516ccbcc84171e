"""The largest logits of each row, and the row's log-sum-exp. The public function is in `call`."""
