"""`spacte predict`: the smoothed classifier's answer for each image."""

import typer

from . import _options as opt
from ._answers import answer_all


def predict(
    images: opt.Images,
    model: opt.ModelName = None,
    n: opt.NoisesToPredict = None,
    alpha: opt.Alpha = None,
    sigma: opt.Sigma = None,
    noise: opt.NoiseKind = None,
    k_consensus: opt.KConsensus = None,
    resize: opt.Resize = False,
    seed: opt.Seed = None,
    as_json: opt.AsJson = False,
    base_url: opt.BaseUrl = None,
    api_key: opt.ApiKey = None,
    timeout: opt.TimeoutS = None,
) -> None:
    """Classify images by the smoothed classifier, without a radius.

    Exit status: 0 where every image is answered, 3 where one or more abstain, 1 where one or more fail, 2 on
    a usage error.
    """
    from rich.console import Console

    from ._lines import prediction_line

    options = opt.given(
        model=model, n=n, alpha=alpha, sigma=sigma, noise=noise, k_consensus=k_consensus, resize=resize, seed=seed
    )
    with opt.connect(base_url, api_key, timeout) as client:
        status = answer_all(
            images,
            lambda image: client.predict(opt.image_of(image), **options),
            prediction_line,
            console=Console(highlight=False),
            as_json=as_json,
        )
    raise typer.Exit(status)
