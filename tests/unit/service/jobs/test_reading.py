"""Results from any cursor, followed or not; events with numbers."""

import asyncio
import json

from spacte_service.jobs.runner import DriverStatus


async def test_results_from_any_cursor_give_every_record_once(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.finish(job["id"], [2, 0, 4, 1])
    results = f"/v1/jobs/{job['id']}/results"
    whole = [json.loads(line) for line in (await world.http.get(results)).text.splitlines()]
    assert [record["index"] for record in whole] == [2, 0, 4, 1]
    for position, record in enumerate(whole):
        rest = (await world.http.get(f"{results}?after={record['index']}")).text.splitlines()
        assert [json.loads(line) for line in rest] == whole[position + 1 :]
    missing = await world.http.get(f"{results}?after=3")
    assert missing.status_code == 422
    assert "Image 3" in missing.json()["detail"]


async def test_half_a_line_is_never_sent(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.finish(job["id"], [0])
    with world.folder(job["id"]).results_file.open("ab") as file:
        file.write(b'{"index":1,"outcome":"certified"')
    text = (await world.http.get(f"/v1/jobs/{job['id']}/results")).text
    assert len(text.splitlines()) == 1


async def test_results_are_followed_to_the_end(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.finish(job["id"], [0])
    following = asyncio.create_task(world.http.get(f"/v1/jobs/{job['id']}/results?follow=true"))
    await asyncio.sleep(0.1)
    world.finish(job["id"], [1, 2])
    await asyncio.sleep(0.1)
    counts = world.finish(job["id"], [3, 4])
    world.says(job["id"], "succeeded", counts | {"certified": 5})
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("succeeded")
    await world.until(job["id"], "succeeded")
    lines = (await following).text.splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2, 3, 4]


async def test_tsv_in_the_columns_of_the_field(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.finish(job["id"], [2, 0])
    world.finish(job["id"], [1], "errored")
    answer = await world.http.get(f"/v1/jobs/{job['id']}/results?format=tsv")
    assert answer.headers["content-type"].startswith("text/tab-separated-values")
    assert answer.text.splitlines() == [
        "idx\tlabel\tpredict\tradius\tcorrect\ttime",
        "0\t3\t3\t0.300000\t1\t0:00:01.500000",
        "2\t3\t3\t0.300000\t1\t0:00:01.500000",
    ]


async def test_events_have_numbers_and_go_on_from_any(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    counts = world.finish(job["id"], [0, 1])
    world.says(job["id"], "running", counts)
    await world.certified(job["id"], 2)
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("failed", "x")
    await world.until(job["id"], "failed")
    events = await world.events(job["id"])
    assert [number for number, _, _ in events] == sorted({number for number, _, _ in events})
    assert [data.get("state", "progress") for _, _, data in events] == ["queued", "running", "progress", "failed"]
    assert events[2][2]["counts"]["remaining"] == 3
    assert events[3][2]["error"]["code"] == "driver_died"
    late = await world.events(job["id"], {"Last-Event-ID": str(events[1][0])})
    assert late == events[2:]
    url = f"/v1/jobs/{job['id']}/events"
    for number in ("x", "-1", "1" * 30, ""):
        assert (await world.http.get(url, headers={"Last-Event-ID": number})).status_code == 422
