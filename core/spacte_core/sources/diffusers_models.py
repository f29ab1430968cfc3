"""Diffusion models of diffusers as denoisers: `diffusers:FOLDER_OR_NAME`."""

from pathlib import Path
from typing import Any

from spacte_core.checkpoint import Checkpoint, CheckpointConfig, CheckpointError
from spacte_core.errors import optional_package
from spacte_core.models import MultiHeadNet
from spacte_core.models.denoisers import Denoised, DenoiserConfig
from spacte_core.models.diffusion import EXTRA, DiffusionConfig, DiffusionDenoiser, step_of
from spacte_core.models.registry import denoised_of
from spacte_core.programs import described

from .base import DIFFUSERS, not_fetched

_UNCONDITIONAL = ("class_embed_type", "num_class_embeds")


def before(name: str, classifier: Checkpoint, sigma: float) -> tuple[MultiHeadNet, CheckpointConfig]:
    """A diffusion model's U-Net before a classifier that stays as it is, and what to save both with.

    Args:
        name: `diffusers:` and a folder that diffusers wrote (`unet/`, `scheduler/`, or both in one), or a name on the
            hub.
        classifier: loaded.
        sigma: noise sd in units of [0, 1] pixels, which decides the time step.

    Raises:
        CheckpointError: it cannot be read, or is no unconditional U-Net of such images.
        MissingPackageError: diffusers is not installed.
    """
    diffusers = optional_package("diffusers", EXTRA)
    diffusers.logging.set_verbosity(diffusers.logging.CRITICAL)  # what fails is told below
    text = name.removeprefix(DIFFUSERS)
    unet = _loaded(diffusers.UNet2DModel, text, "unet", {"use_safetensors": True, "low_cpu_mem_usage": False})
    scheduler = _loaded(diffusers.DDPMScheduler, text, "scheduler", {})
    settings = {key: value for key, value in dict(unet.config).items() if not key.startswith("_")}
    _check(settings, text, classifier.config.model.input_shape)
    try:
        timestep = step_of(scheduler.alphas_cumprod.double().tolist(), sigma)
    except ValueError as error:
        raise CheckpointError(f"{text}: {error}; choose a smaller --sigma.") from error
    said = scheduler.config
    config = DiffusionConfig(
        unet=settings,
        timestep=timestep,
        alpha_bar=float(scheduler.alphas_cumprod[timestep]),
        prediction=said.prediction_type,
        clip=said.clip_sample_range if said.clip_sample else None,
    )
    denoiser = DiffusionDenoiser(config)
    denoiser.unet.load_state_dict(unet.state_dict())
    net = Denoised(denoiser, classifier.net).eval()
    model = denoised_of(DenoiserConfig(kind="diffusion", diffusion=config), classifier.config.model)
    names, pictures = classifier.config.class_names, classifier.config.preprocessing
    return net, described(
        model, sigma=sigma, method=f"{DIFFUSERS}t={timestep}", class_names=names, preprocessing=pictures
    )


def _loaded(kind: Any, text: str, subfolder: str, options: dict[str, Any]) -> Any:
    """A part of the model; from its own folder, or where both parts lie in one."""
    folder = Path(text)
    if folder.is_dir():
        options = options | {"local_files_only": True}
        inside = (folder / subfolder).is_dir()
    else:
        inside = True
    try:
        return kind.from_pretrained(text, **({"subfolder": subfolder} if inside else {}), **options)
    except Exception as error:  # its own, and those of files and the hub
        if folder.is_dir():
            first = str(error).strip().partition("\n")[0][:200].rstrip(". ")
            raise CheckpointError(
                f"{text} has no {subfolder} that diffusers reads ({first}): name a folder with unet/ (config.json and "
                "weights as safetensors) and scheduler/."
            ) from error
        raise not_fetched(text, error) from error


def _check(settings: dict[str, Any], text: str, input_shape: tuple[int, int, int]) -> None:
    """See that a U-Net takes the classifier's images, and nothing but them."""
    channels, height, width = input_shape
    if any(settings.get(key) is not None for key in _UNCONDITIONAL):
        raise CheckpointError(f"{text} wants to be told the class of an image: name an unconditional model.")
    size = settings.get("sample_size")
    sides = (size, size) if isinstance(size, int) else tuple(size or (height, width))
    if settings["in_channels"] != channels or settings["out_channels"] not in (channels, 2 * channels):
        raise CheckpointError(
            f"{text} is of images with {settings['in_channels']} channels, the classifier of "
            f"{channels}: name another model."
        )
    if sides != (height, width):
        raise CheckpointError(
            f"{text} is of images of {sides[0]} x {sides[1]} pixels, the classifier of {height} x {width}: name one of "
            "that size."
        )
