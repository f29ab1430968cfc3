"""`python -m spacte_service.openapi > service/openapi.json` writes the OpenAPI description of the application."""

import json
import sys

from .app import create_app
from .settings import Settings


def main() -> None:
    """Print the description."""
    schema = create_app(Settings(in_process=True)).openapi()
    sys.stdout.write(json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
