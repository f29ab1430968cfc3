"""What becomes of the shards of a call whose sampler died, was removed or failed: another sampler draws them again."""

from spacte_workers.errors import RuntimeFault

from .observers import Observer, RetryReason
from .queues import Queues
from .slots import Call

MAX_LOSSES = 4
"""A shard that lost so many samplers is taken for the cause. Chosen: a failing node may take a few samplers."""


class BrokenRequestError(RuntimeFault):
    """Drawing the noises of this request brought down one sampler after another."""


def draw_again(call: Call, reason: RetryReason, queues: Queues, observer: Observer) -> None:
    """Put the shards of a call back into the queues.

    A shard names its noises, so whoever draws it next gets the same votes. A request whose shard was lost twice gets
    calls of its own from then on; after `MAX_LOSSES` it ends with `BrokenRequestError`.
    """
    observer.retried(sum(len(shards) for _, shards in call.parts), reason)
    for request, shard in ((request, shard) for request, shards in call.parts for shard in shards):
        request.run.lost(shard)
        if reason == "lost":
            lost = shard.phase, shard.start, shard.again
            request.losses[lost] += 1
            losses = request.losses[lost]
            request.isolated |= losses > 1
            if losses >= MAX_LOSSES:
                down = f"{losses} samplers in a row went down with this image"
                request.fail(BrokenRequestError(f"{down}: check the model and the samplers' memory."))
        if not request.over:
            queues.push(request)
