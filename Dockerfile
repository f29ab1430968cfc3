# One image for the Ray head, the workers and the gateway: Ray refuses to mix versions of itself or of Python.
#
#   docker build --build-arg DEVICE=cpu -t spacte:cpu .      # small: torch without CUDA
#   docker build --build-arg DEVICE=cuda -t spacte:cuda .    # for the NVIDIA container runtime
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ARG DEVICE=cpu
ARG UV_VERSION=0.13.9
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
RUN pip install --no-cache-dir uv==${UV_VERSION}
WORKDIR /src
COPY constraints.txt ./
COPY client client
COPY core core
COPY workers workers
COPY service service
# Torch as published carries CUDA; `cpu` takes the build without it, which is gigabytes smaller.
RUN --mount=type=cache,target=/root/.cache/uv \
    case "${DEVICE}" in \
      cpu) export UV_TORCH_BACKEND=cpu ;; \
      cuda) ;; \
      *) echo "DEVICE is cpu or cuda, not ${DEVICE}" >&2; exit 1 ;; \
    esac; \
    uv venv /opt/spacte; \
    uv pip install --python /opt/spacte/bin/python --constraint constraints.txt \
      ./client ./core ./workers ./service

FROM python:${PYTHON}
# A C++ compiler: the noise kernel and compiled networks are built for the processor that they run on.
# Debian keeps only the newest build of a package, so that a pinned one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home spacte \
    && install --directory --owner=spacte --group=spacte /data /models
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
