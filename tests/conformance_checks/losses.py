"""Losses on given logits or tiny networks: values, weights and gradients."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from spacte_core.models.ensemble import Member
from spacte_trainer.attacks import Pgd
from spacte_trainer.circular_teaching import cosine_loss, weights
from spacte_trainer.objectives import Consistency, Drt, Gaussian, Macer, Objective, SmoothMix, Step
from spacte_trainer.objectives.base import Method, Terms
from spacte_trainer.objectives.drt import confidence_margin, differentiated, gradient_diversity
from spacte_trainer.objectives.macer import robustness
from spacte_trainer.objectives.smoothmix import mix
from spacte_trainer.objectives.teaching import weigh
from spacte_trainer.smoothing import draw_logits, mean_probability

from .case import Case, Comparison, checks
from .nets import Answers, RecordedDraws, gradients, linear_net, mlp_ensemble, named


def terms_of(config: Method, logits_LmBK: Tensor, y_B: Tensor) -> tuple[Answers, Terms]:
    """What a method makes of given logits; its noise and pixels do not matter."""
    net = Answers(logits_LmBK)
    m, B, K = logits_LmBK.shape[1:]
    draws = RecordedDraws([torch.zeros(m, B, 1, 1, 1, dtype=logits_LmBK.dtype)])
    step = Step(epoch=1, epochs=2, sigma=1.0, num_classes=K, draws=draws)
    x_BCHW = torch.zeros(B, 1, 1, 1, dtype=logits_LmBK.dtype)
    return net, config.terms(net, x_BCHW, y_B, step)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    """d loss / d of, keeping the graph."""
    return torch.autograd.grad(loss, of, retain_graph=True)[0]


@checks("spacte_circular_teaching")
def _circular_teaching(case: Case) -> Iterator[Comparison]:
    net, terms = terms_of(Gaussian(draws=case["logits"].shape[1]), case["logits"], case["label"])
    w_LB = weights(terms.smoothed_ce_LB, case.number("threshold"))
    loss = weigh(terms, w_LB)
    yield "avg_loss", terms.smoothed_ce_LB, case["avg_loss"]
    yield "weight_applied", w_LB, case["weight_applied"]
    yield "weight_by_teacher", w_LB.roll(-1, dims=0), case["weight_by_teacher"]
    yield "head_loss", loss.parts["heads"], case["head_loss"]
    yield "loss_ce", loss.total, case["loss_ce"]
    yield "grad_logits", gradient(loss.total, net.logits), case["grad_logits"]


@checks("spacte_consistency_loss")
def _spacte_consistency(case: Case) -> Iterator[Comparison]:
    config = Consistency(draws=case["logits"].shape[1], lbd=case.number("lbd"), eta=case.number("eta")).under_teaching()
    net, terms = terms_of(config, case["logits"], case["label"])
    w_LB = weights(terms.smoothed_ce_LB, case.number("threshold"))
    loss = weigh(terms, w_LB)
    con = (w_LB * terms.per_sample_LB["con"]).mean()
    yield "weight_applied", w_LB, case["weight_applied"]
    yield "loss_ce", loss.parts["ce"], case["loss_ce"]
    yield "loss_con", loss.parts["con"], case["loss_con"]
    yield "head_loss", (w_LB * terms.smoothed_ce_LB).mean(dim=1), case["head_loss"]
    yield "total", loss.total, case["total"]
    yield "grad_logits_con", gradient(con, net.logits), case["grad_logits_con"]
    yield "grad_logits_total", gradient(loss.total, net.logits), case["grad_logits_total"]


@checks("consistency_loss_single")
def _consistency_single(case: Case) -> Iterator[Comparison]:
    config = Consistency(draws=len(case["logits"]), lbd=case.number("lbd"), eta=case.number("eta"))
    net, terms = terms_of(config, case["logits"][None], case["label"])
    loss = weigh(terms, torch.ones_like(terms.smoothed_ce_LB))
    con = terms.per_sample_LB["con"].mean()
    yield "loss_xent", loss.parts["ce"], case["loss_xent"]
    yield "loss_con", loss.parts["con"], case["loss_con"]
    yield "total", loss.total, case["total"]
    yield "grad_logits_con", gradient(con, net.logits)[0], case["grad_logits_con"]
    yield "grad_logits_total", gradient(loss.total, net.logits)[0], case["grad_logits_total"]


@checks("spacte_smoothmix_loss")
def _spacte_smoothmix(case: Case) -> Iterator[Comparison]:
    net = linear_net(case["W"], case["b"])
    sides, noises, y_B = (case["x_clean"], case["x_adv"]), case["noises"], case["label"]
    method = SmoothMix(draws=len(noises)).under_teaching()
    terms = method.mixed_terms(net, *sides, y_B, noises, case["lam"], scale=1.0)
    w_LB = weights(terms.smoothed_ce_LB, case.number("threshold"))
    ce, mixed = ((w_LB * terms.per_sample_LB[name]).mean() for name in ("ce", "mix"))
    scale = case.number("eta") * case.number("warmup")
    scaled = method.mixed_terms(net, *sides, y_B, noises, case["lam"], scale=scale)
    total = weigh(scaled, w_LB).total
    pbar_BK = mean_probability(draw_logits(net, sides[0] + noises)).mean(dim=0)
    x_mix, target = mix(*sides, pbar_BK, case["lam"])
    yield "weight_applied", w_LB, case["weight_applied"]
    yield "loss_ce", ce, case["loss_ce"]
    yield "head_loss", (w_LB * terms.smoothed_ce_LB).mean(dim=1), case["head_loss"]
    yield "loss_mix", mixed, case["loss_mix"]
    yield "total", total, case["total"]
    yield "clean_avg_softmax", pbar_BK, case["clean_avg_softmax"]
    yield "x_mix", x_mix, case["x_mix"]
    yield "target_mix", target, case["target_mix"]
    for name, loss in (("mix", mixed), ("total", total)):
        net.zero_grad()
        loss.backward(retain_graph=True)
        for key, grad in gradients(net).items():
            yield f"grad_{key}_{name}", grad, case[f"grad_{key}_{name}"]


@checks("macer_loss")
def _macer(case: Case) -> Iterator[Comparison]:
    net = linear_net(case["W"], case["b"])
    beta, gamma = case.number("beta"), case.number("gamma")
    config = Macer(draws=case.whole("k"), lbd=case.number("lbd"), beta=beta, gamma=gamma)
    objective = Objective(base=config)
    sigma, classes = case.number("sigma"), case["W"].shape[0]
    step = Step(1, 2, sigma, classes, RecordedDraws([case["unit_noise"]]))
    loss = objective.loss(net, case["x"], case["label"], step)
    noisy_kBCHW = (case["x"][:, None] + sigma * case["unit_noise"]).transpose(0, 1)
    rob_LB = robustness(draw_logits(net, noisy_kBCHW), case["label"], sigma, beta, gamma)
    yield "loss_cls_mean", loss.parts["cls"], case["loss_cls_mean"]
    yield "loss_rob_mean", rob_LB.mean(), case["loss_rob_mean"]
    yield "total", loss.total, case["total"]
    loss.total.backward()
    for key, grad in gradients(net).items():
        yield f"grad_{key}", grad[0], case[f"grad_{key}"]


@checks("cosine_loss")
def _cosine(case: Case) -> Iterator[Comparison]:
    heads = []
    for head in range(case.whole("num_heads")):
        names = sorted(
            (name for name in case.arrays if name.startswith(f"head{head}_p")),
            key=lambda name: int(name.rpartition("p")[2]),
        )
        heads.append((names, nn.ParameterList([nn.Parameter(case[name]) for name in names])))
    loss = cosine_loss(params for _, params in heads)
    yield "loss", loss, case["loss"]
    loss.backward()
    for names, params in heads:
        for name, parameter in zip(names, params, strict=True):
            yield f"grad_{name}", parameter.grad, case[f"grad_{name}"]


@checks("drt_loss")
def _drt(case: Case) -> Iterator[Comparison]:
    weights_of = [case[name] for name in ("W1", "b1", "W2", "b2")]
    config = Drt(
        draws=case.whole("m"),
        rho1=case.number("rho1"),
        rho2=case.number("rho2"),
        attack=Pgd(variant="jeong", steps=case.whole("steps"), epsilon=case.number("max_norm"), warmup_epochs=0)
        if case.whole("adv_training")
        else None,
    )
    objective, method = Objective(base=config), config
    sigma, classes = case.number("sigma"), case["W2"].shape[1]
    found: dict[str, list[Tensor]] = {}
    pieces = objective.mini_batches(case["x"], case["label"])
    for (x_BCHW, y_B), unit_mBCHW in zip(pieces, case["unit_noise"], strict=True):
        net = mlp_ensemble(*weights_of)
        step = Step(1, 2, sigma, classes, RecordedDraws([unit_mBCHW]))
        loss = objective.loss(net, x_BCHW, y_B, step)
        loss.total.backward()
        noisy_LmBCHW = method.noisy_inputs(net, x_BCHW, y_B, unit_mBCHW, step)
        _, g_LmBCHW, margin_LmB, correct_LmB = differentiated(net, noisy_LmBCHW, y_B)
        correct = correct_LmB.flatten(1).to(case["x"].dtype)
        piece = {
            "loss_std": loss.parts["ce"],
            "loss_gd": gradient_diversity(g_LmBCHW, correct_LmB),
            "margin_mean": confidence_margin(margin_LmB, correct_LmB),
            "total": loss.total,
            "margin_grad": g_LmBCHW.flatten(1, 2).flatten(2),
            "correct": correct_LmB.flatten(1),
            "n_correct": correct.sum(),
            "n_pairs": (correct.sum(dim=0).square() - correct.sum(dim=0)).sum() / 2,
        }
        members = [named(cast(Member, head).net) for head in net.heads]
        for name, key in (("W1", "A"), ("b1", "a"), ("W2", "W"), ("b2", "b")):
            piece[f"grad_{name}"] = torch.stack([cast(Tensor, member[key][0].grad) for member in members])
        for name, value in piece.items():
            found.setdefault(name, []).append(value.detach())
    for name, values in found.items():
        yield name, torch.stack(values), case[name]
