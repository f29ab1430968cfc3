"""Data-parallel training on Ray Train: `spacte train RECIPE --workers N`. The trainer's only file that imports Ray.

Each worker takes its share of every loader batch, so that N workers make the same steps, of the same global batch, as
one process: gradients are averaged, batch statistics are taken over all workers, the order of the images is that of
one process, and noise and augmentation differ from worker to worker. Worker 0 keeps the state after each epoch in
`--out`, which all workers must see (a shared folder on a cluster). When a worker dies, Ray Train restarts all of them
and they resume from that state.

Ray is an extra of the distribution, `spacte-trainer[distributed]`; importing this without it raises ConfigError.
"""

import inspect
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spacte_core.data import load_data
from spacte_core.hardware import choose_device
from spacte_core.ray_address import RayAddressError, cluster_address

from .config import ConfigError, TrainConfig, resolve_precision
from .evaluation import check_fit
from .loop import check_batch
from .process_group import ProcessGroup
from .runs import TRAINING, check_new, run

# Under `uv run`, Ray would start every worker by `uv run` in a copy of the working folder. Read when ray is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

try:
    import ray
    import ray.train
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer, get_device
except ImportError as error:
    raise ConfigError(
        'Ray Train, which --workers needs, is not installed: pip install "spacte-trainer[distributed]".'
    ) from error

PROGRESS_FILE = Path(TRAINING) / "progress.txt"
"""Worker 0 prints into it; the driver shows it."""

FOLLOW_SECONDS = 0.5
"""Between two reads of it. Chosen: a person does not notice the delay."""

RESTARTS = 3
"""Of the workers before the run fails. Chosen: more deaths in one run are hardly chance."""


class AllReduceSum(torch.autograd.Function):
    """The sum of a tensor over all workers; its gradient is the sum of the workers' gradients.

    PyTorch's `torch.distributed.nn.functional.all_reduce` is deprecated.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return AllReduceSum.forward(ctx, gradients[0])


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batches of all workers, which must be of equal size.

    PyTorch's own works on GPUs alone; this one is for CPUs.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's signature
        if not self.training:
            return super().forward(input)
        count = input.numel() // input.shape[1] * dist.get_world_size()
        x = input.float()
        mean_C = AllReduceSum.apply(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean_C[:, None, None]
        var_C = AllReduceSum.apply(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            rate = cast("float", self.momentum)
            cast("Tensor", self.running_mean).lerp_(mean_C, rate)
            cast("Tensor", self.running_var).lerp_(var_C * (count / (count - 1)), rate)
            cast("Tensor", self.num_batches_tracked).add_(1)
        scale_C = self.weight * (var_C + self.eps).rsqrt()
        return (centred * scale_C[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class DistributedProcessGroup(ProcessGroup):
    """The processes of torch's default process group."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def wrap(self, net: nn.Module) -> nn.Module:
        cuda = self.device.type == "cuda"
        if cuda:
            nn.SyncBatchNorm.convert_sync_batchnorm(net)
        else:
            for norm in [module for module in net.modules() if type(module) is nn.BatchNorm2d]:
                norm.__class__ = SyncBatchNorm2d  # it has the same state
        # Statistics are equal on all workers already; broadcasting them would write into tensors that a second
        # forward of the same step still needs. The option's name changed between versions of PyTorch.
        named = inspect.signature(DistributedDataParallel.__init__).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers"
        options: dict[str, Any] = {option: False}
        return DistributedDataParallel(net, device_ids=[self.device] if cuda else None, **options)

    def barrier(self) -> None:
        dist.barrier()

    def mean(self, values: Mapping[str, list[float]]) -> dict[str, list[float]]:
        found = {}
        for name in sorted(values):
            total = torch.tensor(values[name], device=self.device)
            dist.all_reduce(total)
            found[name] = (total / self.size).tolist()
        return {name: found[name] for name in values}


def work(options: dict[str, str]) -> None:
    """What each worker does: the whole run, as one process of the group."""
    config = TrainConfig.model_validate_json(options["config"])
    device = get_device()
    if isinstance(device, list):
        device = device[0]
    os.chdir(options["folder"])  # relative paths of data start from the command's folder, not from Ray's
    group = DistributedProcessGroup(device)
    out = Path(options["out"])
    with (out / PROGRESS_FILE).open("a", buffering=1) as progress:
        console = Console(file=progress, quiet=group.rank > 0)
        run(config, out, device=device, console=console, resume=True, group=group)


def run_distributed(
    config: TrainConfig,
    out: Path,
    *,
    workers: int,
    device: str | None = None,
    resume: bool = False,
    address: str | None = None,
) -> Path:
    """Carry out `config` with `workers` processes and leave its checkpoint in `out`, which is returned.

    Args:
        config: `batch` is the global batch, shared out among the workers.
        out: a folder that all workers see.
        workers: with CUDA one GPU each, else one CPU each.
        device: `cuda` or `cpu`; None: CUDA where there is any.
        resume: continue the run in `out`.
        address: of a Ray cluster; None or `local`: one is started on this machine for the run.

    Raises:
        ConfigError: too few images a step for so many workers, or the run failed on its workers.
        StateError, DataError: as `runs.run`.
    """
    out = out.absolute()
    check_new(out, resume=resume)
    check_shareable(config, workers)
    chosen = choose_device(device)
    config = resolve_precision(config, chosen)
    try:
        address = cluster_address(address)
    except RayAddressError as error:
        raise ConfigError(str(error)) from None
    started = not ray.is_initialized()
    if started:
        # Without "local", Ray would first try the cluster that was the last one on this machine, and for minutes.
        dashboard = None if address else False
        ray.init(address=address or "local", include_dashboard=dashboard, log_to_driver=False)
    try:
        if address is None:
            check_room("GPU" if chosen.type == "cuda" else "CPU", workers)
        (out / TRAINING).mkdir(parents=True, exist_ok=True)
        (out / PROGRESS_FILE).write_text("")
        with following(out / PROGRESS_FILE):
            _ray_trainer(config, out, workers, use_gpu=chosen.type == "cuda").fit()
    except ray.train.TrainingFailedError as error:
        raise ConfigError(f"The workers failed, the last time with: {_last_line(error)}") from error
    finally:
        if started:
            ray.shutdown()
    return out


def _ray_trainer(config: TrainConfig, out: Path, workers: int, *, use_gpu: bool) -> TorchTrainer:
    """What starts the workers, and restarts them when one dies."""
    return TorchTrainer(
        work,
        train_loop_config={"config": config.model_dump_json(), "out": str(out), "folder": str(Path.cwd())},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name="ray",
            storage_path=str(out / TRAINING),
            failure_config=FailureConfig(max_failures=RESTARTS, controller_failure_limit=RESTARTS),
        ),
    )


def check_shareable(config: TrainConfig, workers: int) -> None:
    """Raise ConfigError where the workers cannot share a step of this method on these data."""
    if config.objective.base.double_backward:
        raise ConfigError(
            f"{config.method} differentiates a gradient, which workers cannot share: leave out --workers."
        )
    data = load_data(config.data, "train")
    check_fit(config.model, data)
    check_batch(config, len(data), workers)


def check_room(kind: str, workers: int) -> None:
    """Raise ConfigError where this machine has fewer CPUs or GPUs than workers, which Ray would wait for."""
    there = int(ray.cluster_resources().get(kind, 0))
    if there < workers:
        raise ConfigError(f"{workers} workers need {workers} {kind}s and there are {there}: take fewer workers.")


@contextmanager
def following(path: Path) -> Iterator[None]:
    """Print what is appended to a file while the block runs."""
    over = threading.Event()

    def follow() -> None:
        with path.open() as lines:
            while True:
                last = over.is_set()
                print(lines.read(), end="", flush=True)
                if last:
                    return
                over.wait(FOLLOW_SECONDS)

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
