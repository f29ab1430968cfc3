#!/bin/sh
# Pins what the image takes from elsewhere than PyPI: base images by the digest of the index of all platforms, torch
# without CUDA by its hashes. Needs Docker, uv, and a network that reaches Docker's registry and PyTorch's index.
set -eu
for file in Dockerfile docker-compose.yml; do
    # shellcheck disable=SC2013  # an image has no spaces
    for image in $(grep -oE '[a-z]+:[0-9][[:alnum:].-]*@sha256' "$file" | sort -u); do
        name=${image%@sha256}
        digest=$(docker buildx imagetools inspect "$name" --format '{{.Manifest.Digest}}')
        sed -i "s|$name@sha256:[0-9a-f]*|$name@$digest|" "$file"
    done
done
grep -oE '^torch(vision)?==[0-9.]+' constraints.txt |
    uv pip compile --quiet --python-version 3.11 --python-platform linux --torch-backend cpu --no-deps --generate-hashes \
        --custom-compile-command "make lock-image" --no-annotate --no-emit-index-url \
        --output-file docker/torch-cpu.txt - >/dev/null
