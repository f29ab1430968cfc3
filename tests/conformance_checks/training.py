"""Whole loader batches: the library's split, attack, objective, and torch's SGD."""

from collections.abc import Callable, Iterator

import torch

from spacte_trainer.attacks import Pgd
from spacte_trainer.objectives import (
    BaseMethod,
    Consistency,
    Gaussian,
    Macer,
    Objective,
    SmoothAdv,
    SmoothMix,
    Step,
    spacte,
)

from .case import Case, Comparison, checks
from .nets import RecordedDraws, gradients, linear_net, trunk_net, values


def _gaussian(case: Case) -> BaseMethod:
    return Gaussian(draws=case.whole("m"))


def _consistency(case: Case) -> BaseMethod:
    eta = case.number("eta") if "eta" in case else 0.5
    return Consistency(draws=case.whole("m"), lbd=case.number("lbd"), eta=eta)


def _smoothmix(case: Case) -> BaseMethod:
    return SmoothMix(
        draws=case.whole("m"),
        steps=case.whole("steps"),
        alpha=case.number("alpha"),
        mix_step=case.whole("mix_step"),
        eta=case.number("eta"),
        warmup_epochs=case.whole("warmup_epochs"),
    )


def _smoothadv(case: Case) -> BaseMethod:
    attack = Pgd(steps=case.whole("steps"), epsilon=case.number("epsilon"), warmup_epochs=case.whole("warmup_epochs"))
    return SmoothAdv(draws=case.whole("m"), attack=attack)


def _macer(case: Case) -> BaseMethod:
    return Macer(draws=case.whole("m"), lbd=case.number("lbd"), beta=case.number("beta"), gamma=case.number("gamma"))


METHODS: dict[str, Callable[[Case], BaseMethod]] = {
    "gaussian": _gaussian,
    "consistency": _consistency,
    "smoothmix": _smoothmix,
    "smoothadv": _smoothadv,
    "macer": _macer,
}


@checks(*(f"train_batch_{name}" for name in METHODS), *(f"train_batch_spacte_{name}" for name in METHODS))
def _train_batch(case: Case) -> Iterator[Comparison]:
    name = case.function.removeprefix("train_batch_")
    taught = name.startswith("spacte_")
    base = METHODS[name.removeprefix("spacte_")](case)
    objective = spacte(base, case.number("lbd_last")) if taught else Objective(base=base)
    W, b = case["W"], case["b"]
    net = trunk_net(case["A"], case["a"], W, b) if "A" in case else linear_net(W, b)
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=case.number("lr"),
        momentum=case.number("momentum"),
        weight_decay=case.number("weight_decay"),
    )
    whole = base.steps_per_batch == 1 and case["unit_noise"].dim() == 5
    noises = [case["unit_noise"]] if whole else list(case["unit_noise"])
    # U[0, 1) draws: the objective halves them, the files hold the halves.
    mixing = [2 * lam for lam in case["lam"]] if "lam" in case else []
    epoch = case.whole("epoch")
    step = Step(
        epoch=epoch,
        epochs=case.whole("epochs") if "epochs" in case else max(epoch, 2),
        sigma=case.number("sigma"),
        num_classes=case["W"].shape[-2],
        draws=RecordedDraws(noises, mixing),
    )
    steps = []
    for x_BCHW, y_B in objective.mini_batches(case["x"], case["label"]):
        optimizer.zero_grad()
        objective.loss(net, x_BCHW, y_B, step).total.backward()
        steps.append(gradients(net))
        optimizer.step()
    for key, value in values(net).items():
        heads = value if key in "Wb" and case[key].dim() == value.dim() else value[0]
        yield f"{key}_after", heads, case[f"{key}_after"]
        if f"grad_{key}" in case:
            yield f"grad_{key}", torch.stack([grads[key][0] for grads in steps]), case[f"grad_{key}"]
            continue
        for i, grads in enumerate(steps):
            grad = grads[key] if key in "Wb" else grads[key][0]
            yield f"grad_{key}_{i}", grad, case[f"grad_{key}_{i}"]
