"""Power and energy of an operator on a GPU: fitted where power was measured, carried by a trend where not."""
