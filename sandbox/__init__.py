"""Run programs so that authority reaches them only by declared descriptors, or by those that somebody sent."""
