"""The web service of docs/serving.md, over loopback: 2,000 requests, half of them malformed."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

fastapi = pytest.importorskip("fastapi", reason="fastapi is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
NUM_REQUESTS = 2_000


def example() -> ModuleType:
    """The code block of the page, as a module."""
    blocks = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = (block for block in blocks if "FastAPI()" in block)
    module = ModuleType("service")
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[str, ModuleType]]:
    module = example()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        free.listen()
        config = uvicorn.Config(module.app, log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [free]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline, "the service does not start"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{free.getsockname()[1]}", module
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def good(generator: np.random.Generator) -> bytes:
    images = generator.random((int(generator.integers(1, 3)), 1, 28, 28)).round(3)
    return json.dumps({"images": images.tolist()}).encode()


def bad(generator: np.random.Generator, kind: int) -> bytes:
    whole = good(generator)
    pixels = json.loads(whole)["images"]
    pixels[0][0][3][4] = [None, "0.5", True, {}, [], -1, 1.5, 1e999, 10**30][kind % 9]
    wrong = [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe\x00",
        whole[: len(whole) // 2],
        b"[" * 100_000,
        b'{"images": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"image": []}',
        b'{"images": "text"}',
        b'{"images": {}}',
        b'{"images": 3}',
        b'{"images": []}',
        b'{"images": [[[]]]}',
        b'{"images": [NaN]}',
        json.dumps({"images": pixels}).encode(),
        json.dumps({"images": np.zeros((65, 1, 28, 28), dtype=int).tolist()}).encode(),
        json.dumps({"images": np.zeros((1, 28, 28, 1)).tolist()}).encode(),
        b'{"images": [' + b"0.5," * 1_100_000 + b"0.5]}",
    ]
    return wrong[kind % len(wrong)]


@pytest.mark.slow
def test_two_thousand_requests_and_none_breaks_it(service: tuple[str, ModuleType]) -> None:
    address, module = service
    generator = np.random.default_rng(0)
    bodies = [
        (True, good(generator)) if index % 2 else (False, bad(generator, index // 2))
        for index in range(NUM_REQUESTS)
    ]
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:

        def send(item: tuple[bool, bytes]) -> tuple[bool, int]:
            is_good, body = item
            found = client.post("/answer", content=body)
            if found.status_code == 200:
                num = len(json.loads(body)["images"])
                assert [set(each) for each in found.json()] == [
                    {"label", "reason", "null_score"}
                ] * num
            return is_good, found.status_code

        with ThreadPoolExecutor(8) as pool:
            counts = Counter(pool.map(send, bodies))
        counters = client.get("/counters").json()
    print(counts, counters)
    assert counts[True, 200] == NUM_REQUESTS // 2
    assert {status for is_good, status in counts if not is_good} == {413, 422}
    assert (
        sum(number for (is_good, _), number in counts.items() if not is_good) == NUM_REQUESTS // 2
    )
    assert counters["images"] == sum(
        len(json.loads(body)["images"]) for good_, body in bodies if good_
    )
    assert counters == module.guard.counters()
