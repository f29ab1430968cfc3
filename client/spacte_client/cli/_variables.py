"""The environment variables that are read, so that a misspelt one is named instead of passed over. Light to import."""

import os
from collections.abc import Iterator, Mapping

PREFIX = "SPACTE_"
OPEN_PREFIX = "SPACTE_ENDPOINT_"
"""Variables of tokens, whose names the operator chooses."""

_GATEWAY = """
    ADDRESS ALLOWED_HOSTS ALLOW_ANONYMOUS ALLOW_CLIENT_SEED ALLOW_INT8 ALPHA_MIN ANSWER_WITHIN_S API_KEYS
    BODY_TIMEOUT_S CORS_ORIGINS DATABASE DATASETS DATA_DIR DEADLINE_MS_MAX DECODE_PROCESSES DRAIN_TIMEOUT_S
    DRIVER_RESTARTS FETCHED_MODELS_BYTES HEAD_TIMEOUT_S HOST IDLE_TIMEOUT_S INPUT_ROOTS IN_PROCESS JOBS_AT_ONCE
    JOB_DRIVERS JOB_SAMPLERS_MAX
    JOB_SAMPLERS_MIN JOB_STORAGE KEEP_JOBS_DAYS KEYS_FILE LOG_FORMAT LOG_LEVEL MAX_BODY_BYTES MAX_CLIENT_BATCH_SIZE
    MAX_CONCURRENT_PER_CALLER MAX_CONCURRENT_REQUESTS MAX_CONNECTIONS MAX_CONNECTIONS_PER_ADDRESS MAX_PIXELS
    MAX_RUNNING MAX_UPLOAD_BYTES MEMORY_BYTES METRICS_PORT MIN_AGREEMENT MODELS MODEL_ROOTS MODEL_SOURCES N0_MAX
    N_MAX PORT PORTABLE PRECISION QUOTA_JOBS QUOTA_NOISES QUOTA_REQUESTS QUOTA_STREAMS QUOTA_UPLOAD_BYTES
    REQUIRE_SIGNED_MODELS RESUME_JOBS SAMPLERS SAMPLERS_MIN SAMPLER_THREADS SEED_SECRET_FILE SIGNING_KEYS_FILE
    TLS_CERT TLS_KEY WRITE_TIMEOUT_S
"""
"""Settings of `spacte serve`."""

_OTHERS = """
    API_KEY BASE_URL
    CPU KERNELS LOAD_CACHE
    DEVICE FRONT_PORT WORKER_CPUS WORKER_MEMORY
"""
"""Of the client; of samplers; of the Compose file."""

KNOWN = frozenset((_GATEWAY + _OTHERS).split())
"""All of them, without `PREFIX`."""

ALIKE = 0.7  # chosen: one or two wrong letters, or a forgotten ending


def warnings(environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """A sentence for each variable of ours that nothing reads."""
    for name in sorted(environment):
        ours, _, end = name.partition(PREFIX)
        if ours or not end or end in KNOWN or name.startswith(OPEN_PREFIX):
            continue
        from difflib import get_close_matches

        near = get_close_matches(end, sorted(KNOWN), n=1, cutoff=ALIKE)
        remedy = f"did you mean {PREFIX}{near[0]}?" if near else "remove it, or see `spacte serve --help`."
        yield f"{name} is no setting: {remedy}"
