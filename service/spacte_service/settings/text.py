"""Lists in one setting."""


def parts(text: str | None) -> list[str]:
    """The parts of a text that commas separate."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]
