"""`make serve`: keep the demo's model running and print a command to try it with."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from demo_models import DEMO_MODELS
from gateway import DATA, spacte


def main() -> None:
    """Train if need be, copy out a sample image, and become the gateway."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits", choices=sorted(DEMO_MODELS))
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    model = DEMO_MODELS[options.model]
    model.train_if_missing()
    image = model.held_out()[0]
    sample = DATA / f"{options.model}-{image.label}.png"
    sample.parent.mkdir(exist_ok=True)
    shutil.copyfile(image.file, sample)
    shown = sample.relative_to(Path.cwd()) if sample.is_relative_to(Path.cwd()) else sample
    print(
        f"\nOnce the gateway is ready, in another terminal:\n\n"
        f"  curl -F image=@{shown} -F params='{{\"n\": 10000}}' http://127.0.0.1:{options.port}/v1/certify\n"
        f"  {spacte()[0]} certify {shown} --base-url http://127.0.0.1:{options.port}\n",
        flush=True,
    )
    served = ("--models", str(model.folder.parent), "--data-dir", str(DATA), "--port", str(options.port))
    with subprocess.Popen(spacte("serve", *served)) as gateway:
        try:
            code = gateway.wait()
        except KeyboardInterrupt:  # which the gateway has received, too
            code = gateway.wait()
    sys.exit(code)


if __name__ == "__main__":
    main()
