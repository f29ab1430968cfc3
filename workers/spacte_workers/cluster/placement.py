"""Which node gets the next sampler, and which sampler is in the wrong place. No Ray.

Ray spreads actors by the resources they reserve, and a sampler reserves only its share of a device. So Ray alone may
put a third sampler where there is work for two, and leave a new node idle.
"""

from collections import Counter
from collections.abc import Mapping, Sequence


def spare_nodes(capacity: Mapping[str, int], places: Sequence[str | None]) -> list[str]:
    """Nodes with room for another sampler, each as often as it has room, the emptiest first.

    Args:
        capacity: how many samplers each living node has room for.
        places: where each sampler is or is meant to be; None where that is not known yet.
    """
    taken = Counter(places)
    spare = [(taken[node] + i, node) for node, room in capacity.items() for i in range(room - taken[node])]
    return [node for _, node in sorted(spare)]


def misplaced(capacity: Mapping[str, int], places: Sequence[str | None]) -> int | None:
    """A sampler that shares its node with too many others, by its position in `places`; None if there is none."""
    taken = Counter(places)
    full = {node for node, count in taken.items() if node is not None and count > capacity.get(node, len(places))}
    return next((i for i, place in enumerate(places) if place in full), None)
