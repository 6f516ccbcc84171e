"""Matmul of NVFP4 by NVFP4, which tensor cores multiply from sm_100 on. The public function is in `call`."""
