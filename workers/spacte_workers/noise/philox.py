"""Keyed random bits: Philox 4x32-10 (Salmon et al. 2011) in plain torch integer operations.

The same bits on CPU and GPU, eager or compiled: int64 tensors hold 32-bit words, and only exact operations
are used. A stream is named by (seed, image index, phase, noise kind, request digest); SHA-256 turns the name
into Philox's 64-bit key and the upper half of its counter, and the lower half is (block within the sample,
sample). So any word of any sample can be had without drawing the ones before it.

Shape suffixes: R rows (samples), N blocks of four words.
"""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from spacte_workers.shards import NoiseSource, Phase

ROW_WORDS = 5  # int64 entries that name a row: two key words, two counter words and the sample number
_DOMAINS = (b"spacte noise 1", b"spacte noise 2")  # without the digest of a request, and with it
_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


@lru_cache(maxsize=4096)
def stream_words(source: NoiseSource, phase: Phase) -> tuple[int, int, int, int]:
    """Key (two words) and upper counter (two words) of a stream; each word is in 0..2**32 - 1."""
    request = [bytes.fromhex(source.request_digest)] if source.request_digest else []
    domain, noise, seed = _DOMAINS[len(request)], source.noise.encode(), bytes.fromhex(source.seed)
    name = [domain, noise, seed, b"%d" % source.image_index, b"%d" % int(phase), *request]
    digest = hashlib.sha256(b"|".join(name)).digest()
    k0, k1, c2, c3 = (int.from_bytes(digest[4 * i : 4 * i + 4], "little") for i in range(4))
    return k0, k1, c2, c3


def row_names(source: NoiseSource, phase: Phase, start: int, stop: int) -> Tensor:
    """Names of the samples start..stop-1 of a stream, int64 [stop - start, ROW_WORDS], on the CPU."""
    rows = torch.empty(stop - start, ROW_WORDS, dtype=torch.int64)
    rows[:, :4] = torch.tensor(stream_words(source, phase), dtype=torch.int64)
    rows[:, 4] = torch.arange(start, stop)
    return rows


def words(rows_R5: Tensor, block_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words for each row and block, each int64 [R, N] (or [R] where block is [R], see below).

    Args:
        rows_R5: int64 [R, ROW_WORDS], from `row_names`.
        block_N: int64 block numbers in 0..2**32 - 1: [1, N] for the same blocks in each row, or [R, 1] for
            one block of its own in each row.
    """
    k0, k1, c2, c3, sample = rows_R5.unsqueeze(-1).unbind(1)
    return philox(block_N, sample, c2, c3, k0, k1)


def philox(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: Tensor, k1: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10 of a counter and a key, all int64 tensors of 32-bit words that broadcast together."""
    for round_number in range(_ROUNDS):
        if round_number:
            k0 = (k0 + _WEYL[0]) & _MASK
            k1 = (k1 + _WEYL[1]) & _MASK
        # An int64 product wraps, but its bits are those of the unsigned one.
        product_0 = c0 * _MULTIPLIERS[0]
        product_1 = c2 * _MULTIPLIERS[1]
        c0 = ((product_1 >> 32) & _MASK) ^ c1 ^ k0
        c2 = ((product_0 >> 32) & _MASK) ^ c3 ^ k1
        c1 = product_1 & _MASK
        c3 = product_0 & _MASK
    return c0, c1, c2, c3
