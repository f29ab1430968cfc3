"""Calls of kserve's own client, for a Python that has it: `python kserve_calls.py ADDRESS` prints what each one gave.

kserve 0.21 wants protobuf below 7, pandas below 3 and psutil below 6, and so cannot be installed beside our pins.
`test_kserve.py` runs this file by the interpreter that KSERVE_PYTHON names.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from httpx import HTTPStatusError
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

IMAGES = np.stack([np.full((1, 8, 8), 3, np.uint8), np.full((1, 8, 8), 5, np.uint8)])


def request(*outputs: RequestedOutput, images: Any = IMAGES, kind: str = "UINT8", **options: Any) -> InferRequest:
    image = InferInput("image", list(images.shape), kind)
    image.set_data_from_numpy(images, binary_data=options.pop("binary", True))
    return InferRequest("digits", [image], request_outputs=list(outputs) or None, **options)


async def tensors(client: Any, url: str, asked: Any, model: str = "digits", **options: Any) -> Any:
    """The id of the answer, and each output: its datatype, shape and first values."""
    answer = await client.infer(url, asked, model_name=model, **options)
    found = {each.name: each.as_numpy() for each in answer.outputs}
    return [
        answer.id,
        {name: [value.dtype.name, value.shape, value.reshape(-1).tolist()] for name, value in found.items()},
    ]


async def sentence(call: Any) -> str:
    """What the client says of a refusal."""
    try:
        await call
    except HTTPStatusError as error:
        return str(error)
    return "no error"


async def calls(url: str) -> dict[str, Any]:
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        label, binary = RequestedOutput("label"), RequestedOutput("counts", {"binary_data": True})
        pixels = (IMAGES / 255).astype(np.float32)
        image = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 8, 8], "data": [3] * 64}
        key = {"Authorization": "Bearer spacte_none"}
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model ready": await client.is_model_ready(url, "digits"),
            "no model ready": await client.is_model_ready(url, "none"),
            "binary": await tensors(client, url, request(request_id="mine")),
            "json": await tensors(client, url, request(request_id="mine", binary=False)),
            "float": await tensors(client, url, request(request_id="mine", images=pixels, kind="FP32")),
            "all binary": await tensors(
                client, url, request(request_id="mine", parameters={"binary_data_output": True})
            ),
            "outputs": await tensors(client, url, request(label, binary, request_id="mine", parameters={"n": 20})),
            "version": await tensors(client, url, request(request_id="mine"), "digits/versions/000000"),
            "dictionary": await tensors(client, url, {"id": "mine", "inputs": [image]}, headers=key),
            "another model": await sentence(client.infer(url, request(), model_name="none")),
            "another output": await sentence(
                client.infer(url, request(RequestedOutput("radius")), model_name="digits")
            ),
        }


if __name__ == "__main__":
    json.dump(asyncio.run(calls(sys.argv[1])), sys.stdout)
