"""Fourteen classifiers that people have, with random weights, as the files that they would bring."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HALF = (0.5, 0.5, 0.5)
MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Brought:
    """What a user has: arguments of `spacte import`, and what the model's own code computes."""

    arguments: list[str]
    source: nn.Module
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """Of pixels in [0, 1], by the library's own code."""
        mean, sd = (torch.tensor(values)[:, None, None] for values in (self.mean, self.sd))
        with torch.no_grad():
            output = self.source((x_BCHW - mean) / sd)
        return getattr(output, "logits", output)


LIBRARY: dict[str, tuple[int, dict[str, Any]]] = {
    "torchvision:resnet18": (32, {}),
    "torchvision:mobilenet_v3_small": (32, {}),
    "torchvision:densenet121": (32, {}),
    "torchvision:vit_b_16": (32, {"image_size": 32}),
    "torchvision:swin_t": (32, {}),
    "timm:resnet18": (32, {}),
    "timm:convnext_atto": (32, {}),
    "timm:vit_tiny_patch16_224": (32, {"img_size": 32}),
    "timm:efficientnet_b0": (32, {}),
}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "ViT": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    | {"image_size": 32, "patch_size": 8},
    "ResNet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
    "ConvNext": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "image_size": 32},
}
ONNX = {"onnx:any": True, "onnx:one": False}
"""Whether the file takes batches of any size, or one image."""

NAMES = [*LIBRARY, *(f"hf:{kind}" for kind in TRANSFORMERS), *ONNX]
LARGE = ("torchvision:densenet121", "torchvision:vit_b_16", "torchvision:swin_t", "timm:efficientnet_b0")


def bring(name: str, folder: Path) -> Brought:
    """Write the files of one of `NAMES` into a folder."""
    torch.manual_seed(0)
    if name in LIBRARY:
        return _library(name, folder)
    if name in ONNX:
        source = lively(Small())
        return Brought([str(onnx_file(folder / "m.onnx", source, dynamic=ONNX[name]))], source, (0, 0, 0), (1, 1, 1))
    source = lively(transformers_model(name.removeprefix("hf:")))
    source.save_pretrained(folder / "in")
    processor = {"size": {"height": 32, "width": 32}, "do_normalize": True, "image_mean": HALF, "image_std": [0.2] * 3}
    (folder / "in" / "preprocessor_config.json").write_text(json.dumps(processor))
    return Brought([f"hf:{folder / 'in'}"], source, HALF, (0.2, 0.2, 0.2))


def _library(name: str, folder: Path) -> Brought:
    import timm
    import torchvision

    size, sized = LIBRARY[name]
    library, _, model = name.partition(":")
    create: Any = timm.create_model if library == "timm" else torchvision.models.get_model
    source = lively(create(model, num_classes=10, **sized))
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": state}, folder / "w.pth")
    mean, sd = (HALF, HALF) if "vit_tiny" in name else (MEAN, SD)
    return Brought([name, "--weights", str(folder / "w.pth"), "--size", str(size)], source, mean, sd)


def lively(module: Any) -> Any:
    """The module in eval mode, with weights under which its logits differ: fresh ones often make them vanish."""
    for parameter in module.parameters():
        if parameter.dim() == 2:
            nn.init.xavier_normal_(parameter)
    return module.eval()


def transformers_model(kind: str) -> Any:
    """A tiny classifier of transformers with 7 named classes."""
    import transformers

    names = {k: f"animal {k}" for k in range(7)}
    common: dict[str, Any] = {"id2label": names, "label2id": {value: key for key, value in names.items()}}
    config = getattr(transformers, f"{kind}Config")(**TRANSFORMERS[kind], **common)
    return transformers.AutoModelForImageClassification.from_config(config)


class Small(nn.Module):
    """A classifier of 3 x 16 x 16 images, of 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.fc(nn.functional.adaptive_avg_pool2d(self.norm(self.conv(x)).relu(), 2).flatten(1))


def onnx_file(path: Path, source: nn.Module, *, dynamic: bool, external_data: bool = False) -> Path:
    """Export a classifier of 3 x 16 x 16 images with PyTorch."""
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    x = torch.rand(2 if dynamic else 1, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own, about its libraries
        torch.onnx.export(
            source, (x,), str(path), dynamo=True, dynamic_shapes=shapes, verbose=False, external_data=external_data
        )
    return path
