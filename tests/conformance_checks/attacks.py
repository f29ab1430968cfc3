"""Attacks on linear networks: the adversaries themselves."""

import math
from collections.abc import Iterator

import torch

from spacte_trainer.attacks import pgd_jeong, pgd_salman, smoothmix

from .case import Case, Comparison, checks
from .nets import linear_net


@checks("smoothmix_pgd_multihead", "smoothmix_pgd_single")
def _smoothmix(case: Case) -> Iterator[Comparison]:
    radius = case.number("maxnorm")
    init, adv = smoothmix(
        linear_net(case["W"], case["b"]),
        case["x"],
        case["label"],
        case["noises"],
        steps=case.whole("steps"),
        alpha=case.number("alpha"),
        mix_step=case.whole("mix_step"),
        init_radius=case.number("maxnorm_s"),
        radius=None if math.isnan(radius) else radius,
    )
    yield "init", init, case["init"]
    yield "adv", adv, case["adv"]


@checks("smoothadv_pgd_salman_multinoise", "smoothadv_pgd_salman_onenoise")
def _salman(case: Case) -> Iterator[Comparison]:
    several = "m" in case
    noise_mBCHW = case["noise"].transpose(0, 1) if several else case["noise"][None]
    adv = pgd_salman(
        linear_net(case["W"], case["b"]),
        case["x"],
        case["label"],
        noise_mBCHW,
        steps=case.whole("steps"),
        epsilon=case.number("max_norm"),
        spare_BCHW=torch.full_like(case["x"], math.nan),  # no sample of a vector has a gradient of exactly zero
    )
    yield "adv", adv, case["adv"]
    if several:
        yield "adv_repeated", adv[:, None].expand(-1, case.whole("m"), -1, -1, -1), case["adv_repeated"]


@checks("smoothadv_pgd_jeong")
def _jeong(case: Case) -> Iterator[Comparison]:
    net = linear_net(case["W"], case["b"])
    steps, epsilon = case.whole("steps"), case.number("max_norm")
    yield ("adv", pgd_jeong(net, case["x"], case["label"], case["noises"], steps=steps, epsilon=epsilon), case["adv"])
