"""Classifiers of torchvision."""

from typing import Any

from spacte_core.checkpoint import CheckpointError
from spacte_core.models.normalization import STATISTICS
from spacte_core.preprocessing import Preprocessing

from .base import (
    HUB,
    Source,
    SourceOptions,
    classes_in,
    load_weights,
    no_such_model,
    normalization_of,
    not_fetched,
    read_state_dict,
)

_SIZE = 224  # that torchvision's classifiers are built for where their weights name no other

_INCEPTIONS = ("googlenet", "inception_v3")
"""They bring their input into another range themselves where they are made for published weights. A file is taken to
be of those, or to go on from them: it does not say, and without it published weights answer wrongly. Auxiliary
classifiers are left out where the file has none."""


def load(name: str, options: SourceOptions) -> Source:
    """The model called NAME, such as `resnet18` or `swin_t`; see `load_source`."""
    from torchvision import models  # it takes a second to import

    known = models.list_models(module=models)
    if name not in known:
        raise no_such_model("torchvision", name, known)
    published: Any = getattr(models.get_model_weights(name), "DEFAULT", None)
    preset = published.transforms() if published is not None else None

    def create(classes: int | None, *, auxiliary: bool = True) -> Any:
        settings: dict[str, Any] = {"num_classes": classes} if classes else {}
        if options.size and name.startswith("vit_"):
            settings["image_size"] = options.size
        if name in _INCEPTIONS:
            of_file = options.file is not None
            settings |= {"transform_input": of_file, "init_weights": not of_file, "aux_logits": auxiliary}
        return models.get_model(name, weights=None, **settings)

    if options.weights == HUB:
        if published is None:
            raise CheckpointError(f"torchvision publishes no weights of {name}: name a file with --weights FILE.")
        try:
            module = models.get_model(name, weights=published)
        except Exception as error:  # of the download
            raise not_fetched(f"torchvision:{name}", error) from error
    else:
        module = create(options.classes)
    if options.file is not None:
        state = read_state_dict(options.file, module)
        auxiliary = name not in _INCEPTIONS or any("aux" in key.lower() for key in state)
        if not auxiliary:
            state = read_state_dict(options.file, create(options.classes, auxiliary=False))
        module = create(options.classes or classes_in(state, module), auxiliary=auxiliary)
        load_weights(module, state, options.file)
    crop = getattr(preset, "crop_size", [_SIZE])
    size = options.size or int(crop[0] if isinstance(crop, list | tuple) else crop)
    mean, sd = STATISTICS["imagenet"]
    normalization = normalization_of(getattr(preset, "mean", mean), getattr(preset, "std", sd))
    names = tuple(published.meta["categories"]) if published is not None else ()
    pictures = None
    if preset is not None and not options.size:
        resize, resample = int(preset.resize_size[0]), preset.interpolation.value
        pictures = Preprocessing(resize=resize, resample=resample, convert=("channels",))
    named = names if len(names) == _classes_of(module) else None
    return Source(module, (3, size, size), normalization, named, pictures)


def _classes_of(module: Any) -> int:
    """Rows of the classifier, the last parameter."""
    return len(list(module.parameters())[-1])
