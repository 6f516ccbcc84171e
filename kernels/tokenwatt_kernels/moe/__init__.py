"""Mixture of experts: which experts a token goes to, and products whose rows are sorted by expert."""
