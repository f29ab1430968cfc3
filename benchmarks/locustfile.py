"""Load as users make it, for Locust: certificates and predictions of a model's own samples.

    locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000 --headless -u 50 -r 10 -t 60s

`--model` and `--noises` say what is asked. A 429 is an answer: the user waits for its `Retry-After`, and it is counted
under a name of its own. `gateway_load.py` is the benchmark whose figures stand in the documentation; it checks each
certificate, too.
"""

import json
import random
from argparse import ArgumentParser
from base64 import b64decode
from typing import Any, cast

import gevent
from locust import HttpUser, constant, events, task


@events.init_command_line_parser.add_listener
def add_options(parser: ArgumentParser) -> None:
    """What is asked."""
    parser.add_argument("--model", default="", help="The model; the first that answers, where none is named.")
    parser.add_argument("--noises", type=int, default=1000, help="n of a certificate.")


class Caller(HttpUser):
    """Asks, reads the answer, and asks again."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Learn which images there are."""
        options = self.environment.parsed_options
        models = self.client.get("/v1/models").json()["data"]
        ready = [model["name"] for model in models if model["state"] == "ready"]
        self.model = options.model or next(iter(ready), "")
        samples = self.client.get(f"/v1/models/{self.model}/samples", name="/v1/models/NAME/samples").json()["data"]
        self.images = [b64decode(sample["data"]) for sample in samples]
        self.noises = options.noises

    @task(4)
    def certify(self) -> None:
        """One certificate."""
        self._ask("/v1/certify", {"n": self.noises})

    @task(1)
    def predict(self) -> None:
        """One prediction."""
        self._ask("/v1/predict", {"n": min(100, self.noises)})

    def _ask(self, path: str, params: dict[str, int]) -> None:
        if not self.images:
            raise RuntimeError(f"the model {self.model!r} has no samples; name another one by --model")
        form = {"params": json.dumps({"model": self.model, **params})}
        image = {"image": ("image.png", random.choice(self.images), "image/png")}
        with self.client.post(path, data=form, files=image, catch_response=True) as answer:
            if answer.status_code == 429 and "Retry-After" in answer.headers:
                cast("dict[str, Any]", answer.request_meta)["name"] = f"{path} (429)"
                answer.success()
                gevent.sleep(float(answer.headers["Retry-After"]))
