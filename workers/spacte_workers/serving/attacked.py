"""An attack on the smoothed classifier, drawn by all samplers: what `certification.attack` asks for."""

from spacte_workers.certification.attack import Adversarial, Attack
from spacte_workers.scheduling.coordinator import Coordinator


async def attacked(coordinator: Coordinator, key: str, steps: Attack) -> tuple[Adversarial | None, int]:
    """Draw what an attack on the model of this key asks for, until it ends; and how many noises that took."""
    outcome, drawn = None, 0
    while True:
        try:
            drawing = steps.send(outcome)
        except StopIteration as end:
            return end.value, drawn
        outcome = await coordinator.draw(key, drawing.image, drawing.run)
        drawn += drawing.run.drawn
