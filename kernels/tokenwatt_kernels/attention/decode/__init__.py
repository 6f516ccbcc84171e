"""Decode attention over a paged key/value cache. The public function is in `call`."""
