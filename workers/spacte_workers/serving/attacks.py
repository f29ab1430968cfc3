"""An attack on a served model: what it asks for is drawn by the samplers."""

from spacte_workers.certification.attack import Adversarial, AttackSpec, attack
from spacte_workers.scheduling.coordinator import Coordinator
from spacte_workers.shards import Image


async def run_attack(
    coordinator: Coordinator, key: str, image: Image, spec: AttackSpec
) -> tuple[Adversarial | None, int]:
    """What an attack on the model of a key finds, and how many noises that took.

    Raises:
        EngineError: the model has no gradient.
        NoWorkersError: as for a certificate.
    """
    steps, outcome, drawn = attack(image, spec), None, 0
    while True:
        try:
            drawing = steps.send(outcome)
        except StopIteration as end:
            return end.value, drawn
        outcome = await coordinator.draw(key, drawing.image, drawing.run)
        drawn += drawing.run.drawn
