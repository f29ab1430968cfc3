"""One line for one answer."""

from typing import TYPE_CHECKING

from rich.text import Text

from spacte_client.rounding import rounded_down_text

if TYPE_CHECKING:
    from spacte_client.types import Certificate, Prediction, ProgressEvent


def class_text(label: int, name: str | None) -> str:
    """A class as people read it: its name, and its number where that says something else."""
    return str(label) if name in (None, str(label)) else f"{name} ({label})"


def certificate_line(image: str, certificate: "Certificate") -> Text:
    """The outcome first, then what it rests on."""
    line = _answer(image, certificate.abstained, certificate.label, certificate.label_name)
    if not certificate.abstained:
        line.append("  radius ").append(rounded_down_text(certificate.radius, 4), "bold")
    stop = "" if certificate.stop_reason == "n_max" else f", stopped at {certificate.stop_reason}"
    line.append(
        f"  sigma {certificate.sigma:g}, alpha {certificate.alpha:g}, n {certificate.n:,}{stop}, "
        f"{certificate.elapsed_ms / 1000:.1f} s",
        "dim",
    )
    return line


def prediction_line(image: str, prediction: "Prediction") -> Text:
    """The outcome first, then what it rests on."""
    line = _answer(image, prediction.abstained, prediction.label, prediction.label_name)
    line.append(
        f"  sigma {prediction.sigma:g}, alpha {prediction.alpha:g}, n {prediction.n:,}, "
        f"{prediction.elapsed_ms / 1000:.1f} s",
        "dim",
    )
    return line


def progress_line(image: str, progress: "ProgressEvent", n_max: int) -> Text:
    """What is proven so far, while more noises are drawn."""
    line = Text(f"{image}  ").append(str(progress.top_label), "bold")
    line.append("  radius ").append(rounded_down_text(progress.radius, 4), "bold").append(" proven")
    left = "" if progress.eta_ms is None else f", {progress.eta_ms / 1000:.0f} s left"
    return line.append(f"  {progress.samples:,} of {n_max:,} noises{left}", "dim")


def _answer(image: str, abstained: bool, label: int, name: str | None) -> Text:
    line = Text(f"{image}  ")
    return line.append("abstains", "yellow") if abstained else line.append(class_text(label, name), "bold green")
