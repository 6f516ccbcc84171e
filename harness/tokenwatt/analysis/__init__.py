"""Analysis: what repeated measurements say together, with intervals. Pure maths over tables; no torch, no GPU."""
