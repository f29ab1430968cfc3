"""Batch certification: inputs, the durable results log, the driver that fills it, and the exports from it."""
