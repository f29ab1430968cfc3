"""Models behind URLs: rows are drawn here, and asked there; see `spacte_core.models.endpoint` for what is stored."""
