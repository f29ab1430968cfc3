"""`make serve`: keep the demo's model running and print a command to try it with."""

import argparse
import subprocess
import sys
from pathlib import Path

from gateway import DATA, MODELS, spacte
from stock import held_out, png, train


def main() -> None:
    """Train if need be, write a sample image, and become the gateway."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits", choices=["digits"])
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    train(MODELS / options.model)
    images_NCHW, labels = held_out(1)
    sample = DATA / f"digit-{labels[0]}.png"
    sample.parent.mkdir(exist_ok=True)
    sample.write_bytes(png(images_NCHW[0]))
    shown = sample.relative_to(Path.cwd()) if sample.is_relative_to(Path.cwd()) else sample
    print(
        f"\nOnce the gateway is ready, in another terminal:\n\n"
        f"  curl -F image=@{shown} -F params='{{\"n\": 10000}}' http://127.0.0.1:{options.port}/v1/certify\n"
        f"  {spacte('certify')[0]} certify {shown} --base-url http://127.0.0.1:{options.port}\n",
        flush=True,
    )
    command = spacte("serve", "--models", str(MODELS), "--data-dir", str(DATA), "--port", str(options.port))
    with subprocess.Popen(command) as gateway:
        try:
            code = gateway.wait()
        except KeyboardInterrupt:
            code = gateway.wait()
    sys.exit(code)


if __name__ == "__main__":
    main()
