"""What to do next, in plain words, from what was measured."""

from spacte_client.types import Diagnosis, NoiseLevel

CHANCE = 2.0  # accuracy below so many times that of guessing is none. Chosen: twice is beyond chance on 100 images
FRAGILE = 0.5  # share of the clean accuracy that has to survive noise. Chosen: below, certificates mostly abstain
BETTER = 1.2  # by how much another level must do better to be named. Chosen: beyond the error on 100 images
SLOW_S = 60.0  # seconds a certificate that nobody waits for. Chosen: a request's usual time limit


def advice(measured: Diagnosis, num_classes: int) -> list[str]:
    """Sentences in the order in which to act on them."""
    if measured.clean_accuracy < CHANCE / num_classes:
        right = (
            f"Without noise it is right on {measured.clean_accuracy:.1%} of the images, hardly more than by guessing"
        )
        return [f"{right}: check the order of the classes, the mean and sd and the labels first."]
    return [*_robustness(measured), *_speed(measured)]


def _robustness(measured: Diagnosis) -> list[str]:
    here = next((level for level in measured.levels if level.sigma == measured.sigma), measured.levels[0])
    best = max(measured.levels, key=lambda level: level.average_radius)
    kept = (
        f"Of {measured.clean_accuracy:.1%} right answers {here.noisy_accuracy:.1%} are left under noise {here.sigma:g}"
    )
    if here.noisy_accuracy < FRAGILE * measured.clean_accuracy:
        sentences = [
            f"{kept}: it was not trained for such noise, and most certificates would abstain.",
            f"Train it under noise for a few epochs: spacte train RECIPE --init MODEL --sigma {here.sigma:g}.",
        ]
    else:
        sentences = [f"{kept}: {_expected(here)}. Serve it: spacte serve --models FOLDER."]
    if best is not here and best.average_radius > BETTER * here.average_radius:
        sentences.append(
            f"At sigma {best.sigma:g} more is to be expected ({_expected(best)}): import or save it with that sigma."
        )
    return sentences


def _expected(level: NoiseLevel) -> str:
    certified, further = level.certified_accuracy["0"], level.certified_accuracy["0.25"]
    some = f"{certified:.1%} of the answers can be certified, {further:.1%} at radius 0.25"
    return f"{some}, the average radius is {level.average_radius:.3f}"


def _speed(measured: Diagnosis) -> list[str]:
    seconds = measured.seconds_per_certificate
    if seconds <= SLOW_S:
        return []
    took = f"A certificate with n = {measured.n:,} takes {seconds:,.0f} s on {measured.device}"
    return [f"{took}: ask for n = 1,000 or 10,000 first, give a target radius, or use a GPU."]
