"""A training run that ends in the middle of its second epoch, for the tests of what a resumed one makes of it."""

from spacte_trainer.callbacks import Callback
from spacte_trainer.metrics import LossMeter


class InterruptedRunError(Exception):
    """What the run ends with."""


class Interruption(Callback):
    """Ends the run after the second batch of its second epoch."""

    def on_batch_end(self, epoch: int, done: int, total: int, meter: LossMeter) -> None:
        """Called by the loop."""
        if (epoch, done) == (2, 2):
            raise InterruptedRunError
