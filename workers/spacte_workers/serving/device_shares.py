"""Which part of a device a sampler reserves on Ray: gateways and batch jobs share the same devices. Light to import.

Two samplers of one gateway do not fit on one GPU, so that Ray cannot stack them there and leave another GPU idle; one
of a gateway and one of a job do.
"""

INTERACTIVE_SHARE = 0.51
"""Of a gateway's samplers: just more than half."""

BATCH_SHARE = 0.49
"""Of a batch job's samplers: what a gateway's sampler leaves."""
