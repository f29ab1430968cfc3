"""Uploaded files: kept once, under the SHA-256 of their bytes."""

from .uploads import Uploads

__all__ = ["Uploads"]
