"""What the hardware allows: physical limits, and ratios between systems."""
