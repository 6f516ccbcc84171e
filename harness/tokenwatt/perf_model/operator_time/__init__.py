"""Time of one operator on one GPU: curves fitted on measured operator tables, and a trend for GPUs without tables."""
