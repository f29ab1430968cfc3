"""Connects the network of a checkpoint to its endpoint, and sees that the same model goes on answering."""

import time
import weakref

import torch
from torch import Tensor, nn

from spacte_core.models.endpoint import EndpointNetwork, probe_rows
from spacte_workers.errors import EndpointError

from .session import Session, changed

_FRESH_S = 1.0
"""For how long an answer to the probes holds at the start of a call. Chosen: calls that follow one another ask once
between them, and a certificate that begins later asks first."""


class Connected:
    """A network whose endpoint answers.

    Attributes:
        network: whose logits come from there.
    """

    def __init__(self, network: EndpointNetwork, input_shape: tuple[int, int, int], session: Session) -> None:
        self.network = network
        self._session = session
        self._probes = probe_rows(network.endpoint.probes, input_shape)
        self._confirmed = float("-inf")
        network.connect(self._ask)

    @property
    def rounding(self) -> float:
        """What an answer may vary by, as part of what rows differ by."""
        return self.network.endpoint.rounding

    def begin(self) -> None:
        """See that the model is still the imported one, unless that has just been seen.

        Raises:
            EndpointError: it does not answer.
            EndpointFaultError: it answers the probes otherwise, or says that it is another one.
        """
        if time.monotonic() - self._confirmed > _FRESH_S:
            self.confirm()

    def confirm(self) -> None:
        """The same in any case: after the last vote of a call, before any of them counts."""
        config, expected_PK = self.network.endpoint, self.network.expected_PK
        self._session.check_version()
        found_PK = self._ask(self._probes)
        allowed = config.rounding * (expected_PK - expected_PK.mean(0)).abs().max().item()
        if expected_PK.shape != found_PK.shape or (expected_PK - found_PK).abs().max().item() > allowed:
            raise changed(config, "it answers fixed rows otherwise than when it was imported")
        self._confirmed = time.monotonic()

    def _ask(self, rows_NCHW: Tensor) -> Tensor:
        rows = rows_NCHW.detach().float().cpu().contiguous().numpy()
        return torch.from_numpy(self._session.logits(rows))


def connect(module: nn.Module, input_shape: tuple[int, int, int], num_classes: int) -> Connected | None:
    """Connect the endpoint in a network; None where there is none.

    Args:
        module: the network, which may have a denoiser before the endpoint.
        input_shape: (C, H, W).
        num_classes: K.

    Raises:
        EndpointError: it asks several, or a token is missing.
    """
    found = [part for part in module.modules() if isinstance(part, EndpointNetwork)]
    if len(found) > 1:
        raise EndpointError("The model asks several endpoints: certify a model that asks one.")
    if not found:
        return None
    session = Session(found[0].endpoint, num_classes)
    weakref.finalize(found[0], session.close)
    return Connected(found[0], input_shape, session)
