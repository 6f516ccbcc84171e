"""Matrix products with fp32 accumulation."""
