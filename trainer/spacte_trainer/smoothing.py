"""What the methods share: one forward for all noisy copies, and averages over the draws."""

from torch import Tensor, nn

from spacte_core.models.multihead import stack_logits


def draw_logits(net: nn.Module, x_mBCHW: Tensor) -> Tensor:
    """z_LmBK of all noisy copies, draw-major, in **one** forward, so that BN sees the whole concatenation."""
    return stack_logits(net(x_mBCHW.flatten(0, 1))).unflatten(1, x_mBCHW.shape[:2])


def smoothed_ce(z_LmBK: Tensor, y_B: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """lbar_LB: the mean over draws of the cross-entropy (not the cross-entropy of the mean).

    With `label_smoothing` e, in [0, 1), the label is (1 - e) onehot(y) + e / K (Szegedy et al. 2016, section 7).
    """
    L, m, B, K = z_LmBK.shape
    ce = nn.functional.cross_entropy(
        z_LmBK.reshape(-1, K), y_B.repeat(L * m), reduction="none", label_smoothing=label_smoothing
    )
    return ce.unflatten(0, (L, m, B)).mean(dim=1)


def mean_probability(z_LmBK: Tensor) -> Tensor:
    """pbar_LBK: the mean over draws of the softmax."""
    return z_LmBK.softmax(dim=-1).mean(dim=1)


def label_probability(pbar_LBK: Tensor, y_B: Tensor) -> Tensor:
    """pbar_LB of the true classes."""
    return pbar_LBK.gather(2, y_B.expand(len(pbar_LBK), -1)[..., None]).squeeze(2)


def log_floor(p: Tensor) -> Tensor:
    """log max(p, 1e-20), as published; its gradient is zero below the floor and never NaN."""
    return p.clamp(min=1e-20).log()


def divergence(q_BK: Tensor, z_LmBK: Tensor) -> Tensor:
    """(1/m) sum_j KL(q || softmax(z_j)) for q_BK or q_LBK, as an LB tensor; the gradient flows into q too."""
    log_p_LmBK = z_LmBK.log_softmax(dim=-1)
    # The mean over draws of q.log p_j is q.(mean of log p_j): one pass over the draws instead of two.
    return (q_BK * (log_floor(q_BK) - log_p_LmBK.mean(dim=1))).sum(dim=-1)


def entropy(p_LBK: Tensor) -> Tensor:
    """H_LB = - sum_c p log max(p, 1e-20)."""
    return -(p_LBK * log_floor(p_LBK)).sum(dim=-1)
