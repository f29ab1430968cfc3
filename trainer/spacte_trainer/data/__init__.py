"""The data sources' former address, kept for scripts outside this repository: they live in `spacte_core.data`."""
