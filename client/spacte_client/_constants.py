"""Every address, timeout, retry and limit of the SDK and the command line, with where it comes from.

`anthropic` stands for the SDK of that name for Python, whose retries and timeouts this one shares.
"""

BASE_URL_VARIABLE = "SPACTE_BASE_URL"
API_KEY_VARIABLE = "SPACTE_API_KEY"
DEFAULT_BASE_URL = "http://127.0.0.1:8000"
"""Where `spacte serve` listens by default."""

CONNECT_TIMEOUT_S = 5.0
"""As in `anthropic`; httpx's own default, too."""

ANSWER_TIMEOUT_S = 600.0
"""As in `anthropic`. 100,000 noises on a CPU take minutes."""

DEADLINE_MARGIN_S = 60.0
"""Waited beyond a `deadline_ms`. Chosen: enough for the upload, the shards under way at the deadline and the answer."""

KEPT_CONNECTIONS = 32
"""Idle connections that stay open. Chosen: four times `CONCURRENCY`; how many are in use is the caller's choice."""

MAX_RETRIES = 2
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 8.0
JITTER = 0.25
"""The part of a delay that is random. The four are those of `anthropic`."""

LONGEST_RETRY_AFTER_S = 60.0
"""As in `anthropic`: where the gateway asks for a longer wait, the error is raised and says how long."""

LONGEST_OUTAGE_S = 300.0
"""Chosen: a gateway that is restarted has loaded its models by then."""

CONCURRENCY = 8
"""Requests of `certify_many` in flight. Chosen: they keep one machine's samplers busy and leave room in its queue."""

POLL_S = 2.0
"""Between two polls of a job whose gateway sends no `Retry-After`. Chosen: jobs take minutes."""

PROGRESS_POLL_S = 1.0
"""Between two polls for a progress bar. Chosen: a bar that stands still for longer looks stuck."""

LARGEST_PAGE = 100
"""The largest `limit` of a list in `service/openapi.json`."""

DOCTOR_TIMEOUT_S = 10.0
"""Chosen: `/v1/info` takes milliseconds; a longer wait shows nothing new."""

SECOND_CTRL_C_S = 3.0
"""How long after the first Ctrl-C a second one cancels the job. Chosen: time to read the line that says so."""

REFRESH_PER_SECOND = 10
"""Of a line on the terminal: the stream sends at most ten events a second."""
