"""The pages that people look at: static files, with no build step and nothing from another origin."""

from .pages import add_pages

__all__ = ["add_pages"]
