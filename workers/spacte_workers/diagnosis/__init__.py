"""What a model lacks to be certified: `spacte diagnose`."""
