"""The version of the service, as its package says."""

from importlib.metadata import version

VERSION = version("spacte-service")
