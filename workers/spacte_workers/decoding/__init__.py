"""Decoding what strangers send in processes of its own, with little memory and time and no network.

A decoder that crashes, hangs or takes too much costs the one file that it was given; it is replaced.
"""

from .decoders import DECODER_BYTES, Decoders
from .isolated_source import IsolatedSource, open_isolated
from .process import DecoderLostError

__all__ = ["DECODER_BYTES", "DecoderLostError", "Decoders", "IsolatedSource", "open_isolated"]
