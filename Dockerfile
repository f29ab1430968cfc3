# One image for the Ray head, the workers and the gateway: Ray refuses to mix versions of itself or of Python.
#
#   docker build --build-arg DEVICE=cpu -t spacte:cpu .      # torch without CUDA, gigabytes smaller: see docker/install.sh
#   docker build --build-arg DEVICE=cuda -t spacte:cuda .    # for the NVIDIA container runtime
#
# `make lock-image` renews the digest, which is of the index of all platforms.
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS base

FROM base AS build
ARG DEVICE=cpu
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /src
COPY constraints.txt ./
RUN sed -n '/^uv==/,/[^\\]$/p' constraints.txt > /tmp/uv.txt \
    && pip install --no-cache-dir --require-hashes --requirement /tmp/uv.txt
COPY client client
COPY core core
COPY workers workers
COPY service service
# torch-cpu.txt may be missing: a pattern need not match.
COPY docker/install.sh docker/torch-cpu.tx[t] docker/
RUN --mount=type=cache,target=/root/.cache/uv sh docker/install.sh /opt/spacte "${DEVICE}"

FROM base
# A C++ compiler: the noise kernel and compiled networks are built for the processor that they run on.
# Debian keeps only the newest build of a package, so that a pinned one would soon be gone; apt checks its signature.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home spacte \
    && install --directory --owner=spacte --group=spacte /data /models
# With a list of its packages, /opt/spacte/sbom.cdx.json.
COPY --from=build /opt/spacte /opt/spacte
COPY --chmod=755 docker/gateway.sh /usr/local/bin/gateway
ENV PATH=/opt/spacte/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 \
    SPACTE_MODELS=/models \
    SPACTE_DATA_DIR=/data
# By number, so that an orchestrator can tell that it is not root.
USER 10001
WORKDIR /home/spacte
CMD ["spacte", "--help"]
