"""A small app that uses each platform feature once; the control plane's own tests deploy it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import modal
from sample_common import GREETING

from sample_studio.words import WORD

HERE = Path(__file__).parent
image = (
    modal.Image.debian_slim(python_version="3.12")
    .apt_install("ffmpeg")
    .pip_install("httpx>=0.27", extra_options="--no-cache-dir")
    .uv_pip_install("fastapi", "pydantic>=2", extra_index_url="https://example.invalid/simple")
    .env({"SAMPLE_MODE": "two words"})
    .pip_install_from_requirements(str(HERE.parent / "requirements.txt"))
    .add_local_file(HERE.parent / "requirements.txt", "/data/list.txt", copy=True)
    .add_local_python_source("sample_common")
)

clips = modal.Volume.from_name("clips", create_if_missing=True)
models = modal.Volume.from_name("models", create_if_missing=True)
records = modal.Dict.from_name("records", create_if_missing=True)
app = modal.App("sample-studio", image=image, tags={"project": "sample"})


@app.function(env={"EXTRA": "1"})
def double(number: int) -> int:
    return 2 * number


@app.function()
def big(size: int) -> bytes:
    return b"x" * size


@app.function(retries=modal.Retries(max_retries=2, initial_delay=0.1, backoff_coefficient=1.0))
def third_time_lucky() -> int:
    tries = records.get("tries", 0) + 1
    records["tries"] = tries
    if tries < 3:
        raise ValueError("not yet")
    return tries


@app.function(timeout=1)
def too_slow() -> None:
    time.sleep(60)


@app.function(max_containers=1)
def cancellable() -> None:
    records["started"] = modal.current_input_id()
    try:
        time.sleep(60)
    finally:
        records["cleaned"] = True


@app.function(schedule=modal.Cron("0 4 * * *"))
def sweep() -> None:
    records["swept"] = True


@app.function(volumes={"/clips": clips})
def write(name: str, text: str, commit: bool = True) -> None:
    Path("/clips", name).write_text(text)
    if commit:
        clips.commit()


@app.function(volumes={"/clips": clips})
def read_twice(name: str) -> tuple[bool, bool]:
    before = Path("/clips", name).exists()
    write.remote(name, "late")
    unseen = Path("/clips", name).exists()
    clips.reload()
    return before or unseen, Path("/clips", name).exists()


@app.function(volumes={"/clips": clips})
def reload_while_open() -> str:
    with Path("/clips/held.txt").open("w"):
        try:
            clips.reload()
        except RuntimeError as error:
            return str(error)
    return "reloaded"


@app.function(volumes={"/models": models.with_mount_options(read_only=True, sub_path="v1")})
def read_only() -> tuple[list[str], str]:
    names = sorted(p.name for p in Path("/models").iterdir())
    try:
        Path("/models/new").write_text("x")
    except OSError as error:
        return names, type(error).__name__ + str(error.errno)
    return names, "written"


@app.function()
def what_is_here() -> dict[str, object]:
    return {
        "root": sorted(p.name for p in Path("/root").iterdir()),
        "cwd": str(Path.cwd()),
        "baked": Path("/data/list.txt").read_text(),
        "mode": os.environ["SAMPLE_MODE"],
        "file": __file__,
        "greeting": GREETING + WORD,
        "local": modal.is_local(),
    }


@app.cls(
    gpu=["L4", "A10"],
    cpu=2.0,
    memory=16384,
    volumes={"/clips": clips},
    secrets=[modal.Secret.from_name("sample-keys", required_keys=["SIGNING_KEY"])],
    enable_memory_snapshot=True,
    experimental_options={"enable_gpu_snapshot": True},
    timeout=600,
    startup_timeout=120,
    max_containers=1,
    min_containers=0,
    buffer_containers=0,
    scaledown_window=60,
)
class Generator:
    @modal.enter(snap=True)
    def load(self) -> None:
        self.order = ["load"]
        self.task_at_load = os.environ["MODAL_TASK_ID"]

    @modal.enter(snap=False)
    def wake(self) -> None:
        self.order.append("wake")
        if os.environ.get("BAD_RESTORE") and self.task_at_load != os.environ["MODAL_TASK_ID"]:
            os._exit(222)

    @modal.exit()
    def leave(self) -> None:
        records["left"] = os.environ["MODAL_TASK_ID"]

    @modal.method()
    def render(self, name: str) -> dict[str, object]:
        Path("/clips", name).write_text("whole")
        clips.commit()
        return {
            "order": self.order,
            "restored": self.task_at_load != os.environ["MODAL_TASK_ID"],
            "key": os.environ["SIGNING_KEY"],
        }

    @modal.method()
    def render_slowly(self, name: str) -> str:
        Path("/clips", name).write_text("half")
        records.put("attempts", records.get("attempts", 0) + 1)  # last: the tests act on it
        while not records.get("go", False):
            time.sleep(0.05)
        Path("/clips", name).write_text("whole")
        clips.commit()
        return modal.current_input_id() or ""


@app.function(enable_memory_snapshot=True)
@modal.concurrent(max_inputs=20, target_inputs=10)
@modal.asgi_app(label="sample-web")
def web():
    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        await records.put.aio("lifespan", "up")
        yield {"from_lifespan": "yes"}
        await records.put.aio("lifespan", "down")

    api = FastAPI(lifespan=lifespan)

    @api.post("/echo")
    async def echo(request: Request) -> dict[str, object]:
        return {
            "size": len(await request.body()),
            "query": request.url.query,
            "header": request.headers["x-test"],
            "state": request.state.from_lifespan,
        }

    @api.post("/clips/{name}")
    async def start(name: str) -> dict[str, str]:
        call = await Generator().render.spawn.aio(name)
        return {"call": call.object_id, "base": await web.get_web_url.aio() or ""}

    @api.get("/calls/{call_id}")
    async def poll(call_id: str) -> dict[str, object]:
        try:
            return {"done": await modal.FunctionCall.from_id(call_id).get.aio(timeout=0)}
        except TimeoutError:
            return {"pending": True}

    @api.get("/clips/{name}")
    async def fetch(name: str) -> StreamingResponse:
        return StreamingResponse(clips.read_file.aio(name), media_type="video/mp4")

    @api.get("/wait")
    async def wait() -> str:
        for _ in range(2000):
            if await records.get.aio("answer"):
                return "answered"
            await asyncio.sleep(0.05)
        return "nobody answered"

    @api.get("/stream")
    async def stream() -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            for number in range(3):
                yield f"data: {number}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return api


@app.local_entrypoint()
def main(number: int = 3) -> None:
    print(f"twice is {double.remote(number)}")
