"""Models of timm, PyTorch Image Models."""

from typing import Any

from spacte_core.checkpoint import CheckpointError
from spacte_core.errors import optional_package
from spacte_core.stated_transforms import of_timm

from .base import (
    HUB,
    Source,
    SourceOptions,
    classes_in,
    imagenet_names,
    load_weights,
    no_such_model,
    normalization_of,
    not_fetched,
    read_state_dict,
    stated,
)


def load(name: str, options: SourceOptions) -> Source:
    """The model called NAME, such as `resnet18` or `vit_tiny_patch16_224`; see `load_source`."""
    timm: Any = optional_package("timm", "timm")
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise no_such_model("timm", architecture, timm.list_models())

    def create(classes: int | None, *, pretrained: bool = False) -> Any:
        common: dict[str, Any] = {"pretrained": pretrained, "num_classes": classes}
        if options.size is not None:
            try:
                return timm.create_model(name, img_size=options.size, **common)
            except TypeError:  # a convolutional network takes images of any size, and no such argument
                pass
        return timm.create_model(name, **common)

    if options.weights == HUB:
        try:
            module = create(None, pretrained=True)
        except Exception as error:  # the hub's client, which has many
            raise not_fetched(f"timm:{name}", error) from error
    else:
        module = create(options.classes)
    if options.file is not None:
        state = read_state_dict(options.file, module)
        module = create(options.classes or classes_in(state, module))
        load_weights(module, state, options.file)
    published = timm.data.resolve_model_data_config(module)
    channels, height, width = published["input_size"]
    if channels != len(published["mean"]):
        raise CheckpointError(f"timm says nothing of the mean and sd of {name}: export it with save_model.")
    shape = (channels, options.size or height, options.size or width)
    pictures = None if options.size else stated(of_timm, published, height)
    names = imagenet_names() if timm.data.infer_imagenet_subset(module) == "imagenet-1k" else None
    return Source(module, shape, normalization_of(published["mean"], published["std"]), names, pictures)
