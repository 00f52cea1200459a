"""Answers at the server's addresses: OpenAI's protocol, health, and the page. `transformers serve` is not built on.

That one has no key and no limits, lets any caller load and unload models, and reads control tokens in a user's text.
"""

import asyncio
import contextlib
import json
import logging
import re
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

from anyio import create_task_group
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from chat_utils.engine import Engine
from chat_utils.messages import longest_bytes
from chat_utils.sampling import Sampling
from chat_utils.server.api_error import ApiError
from chat_utils.server.guard import HEADERS, BodyReader, check_origin
from chat_utils.server.jobs import HangUpError, Job, Jobs
from chat_utils.server.keys import KeyCheck
from chat_utils.server.openai_replies import write_chunk, write_event, write_piece, write_reply, write_usage
from chat_utils.server.openai_requests import parse_json, parse_request
from chat_utils.server.settings import ServerOptions

PAGE = Path(__file__).parent / "web"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
QUICK_BYTES = 4096  # of a request that is read in less time than a thread takes to begin; a megabyte takes a while
MAX_PARSED = 2  # larger ones at once: more would keep the replies in the making from the processor
log = logging.getLogger("chat")

# A proxy (nginx) that collects a stream before it passes it on would keep its pieces from the caller.
STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}

Handler = Callable[[Request], Awaitable[Response]]


def tidy_path(path: str) -> str:
    """Return a path as clients mean it: one slash where they put two, none at its end, /v1 where they left it out.

    >>> [tidy_path(path) for path in ("/v1//chat/completions/", "/chat/completions", "//", "/v1/models/a b")]
    ['/v1/chat/completions', '/v1/chat/completions', '/', '/v1/models/a b']
    """
    path = re.sub(r"^https?://[^/]*", "", path)  # as proxies ask
    parts = [part for part in path.split("/") if part]
    if parts and parts[0] in ("chat", "completions", "models"):
        parts.insert(0, "v1")
    return "/" + "/".join(parts)


class ChatServer:
    """One engine's addresses, as an ASGI application."""

    def __init__(
        self, engine: Engine, sampling: Sampling, options: ServerOptions, with_page: bool = False,
        system: str | None = None,
    ) -> None:  # fmt: skip
        self.engine, self.sampling, self.options = engine, sampling, options
        self.system = system  # of dialogues that bring none
        self.engine.share_system(system or "")
        self.keys, self.bodies = KeyCheck(options.api_key), BodyReader(options)
        self.parsing = asyncio.Semaphore(MAX_PARSED)
        self.jobs = Jobs(engine, options.slots, options.max_queue)
        names = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
        defaults = {name: getattr(sampling, name) for name in names}
        defaults["max_tokens"] = min(sampling.max_new_tokens, engine.window)  # less where a prompt leaves less
        self.model = {
            "id": engine.name, "object": "model", "created": int(time.time()), "owned_by": "you", "defaults": defaults,
            "window": engine.window, "longest_message": longest_bytes(engine.window),  # in tokens, in bytes
        }  # fmt: skip
        with_key = {
            "/v1/chat/completions": ("POST", partial(self.answer, kind="chat")),
            "/v1/completions": ("POST", partial(self.answer, kind="text")),
            "/v1/models": ("GET", self.list_models),
            "/v1/models/{name:path}": ("GET", self.show_model),
            "/load_model": ("POST", self.load_model),
        }
        # Open to all: these tell nothing and cost nothing.
        without = {"/health": ("GET", self.show_health), "/": ("GET", self.show_addresses)}
        for file in sorted(PAGE.iterdir()) if with_page else []:
            address = "/" if file.name == "index.html" else f"/{file.name}"
            without[address] = ("GET", partial(send_file, file.read_bytes(), KINDS[file.suffix]))
        self.app = Starlette(
            routes=[
                Route(path, self.check(handler, has_key), methods=[method])
                for routes, has_key in ((with_key, True), (without, False))
                for path, (method, handler) in routes.items()
            ],
            exception_handlers={404: self.refuse, 405: self.refuse, Exception: self.refuse},
            lifespan=self.run_jobs,
        )
        self.app.router.redirect_slashes = False  # it would repeat any Host, before that is checked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; a fault ends here, noted and answered: the HTTP server would log its words."""
        try:
            if scope["type"] == "http":
                scope = {**scope, "path": tidy_path(scope["path"])}
            await self.app(scope, receive, send)
        except Exception:
            if scope["type"] != "http":
                raise

    @contextlib.asynccontextmanager
    async def run_jobs(self, _: Starlette) -> AsyncGenerator[None]:
        """Load what the first caller would wait a tenth of a second for; let go of the threads at the end."""
        async with create_task_group():
            pass
        yield
        self.jobs.close()

    def check(self, handler: Handler, needs_key: bool) -> Handler:
        """Return the handler with the checks before it, and every error in OpenAI's form."""

        async def handle(request: Request) -> Response:
            try:
                check_origin(request, self.options.allowed_hosts)
                if needs_key:
                    await self.keys.check(request)
                response = await handler(request)
            except HangUpError:
                return Response(status_code=499)  # nobody reads it
            except (asyncio.CancelledError, KeyboardInterrupt):
                raise
            except BaseException as error:  # a panic of tokenizers (Rust) is no Exception
                return write_error(request, self.note_fault(error))
            response.headers.update(HEADERS)
            return response

        return handle

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Answer what has no route, and what went wrong outside of a handler, as while an answer was written."""
        allowed = (getattr(error, "headers", None) or {}).get("Allow", "another method")
        words = {
            404: "no such address here; the API is at /v1/chat/completions, /v1/completions and /v1/models",
            405: f"{request.method} is not possible at this address; it takes {allowed}",
        }
        status = getattr(error, "status_code", None)
        fault = ApiError(status, words[status]) if status in words else self.note_fault(error)
        return write_error(request, fault)

    def note_fault(self, error: BaseException) -> ApiError:
        """Return what the caller is told; log a fault of ours without its words, which may be a conversation's."""
        if isinstance(error, ApiError):
            return error
        place = traceback.extract_tb(error.__traceback__)[-1]
        words = (type(error).__name__, Path(place.filename).name, place.lineno)
        log.error("fault: %s in %s:%d", *words, exc_info=self.options.log_conversations)
        return ApiError(500, "the server failed on this request; its log says where", code="internal_error")

    # Addresses

    async def list_models(self, _: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self.model]})

    async def show_model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        self.check_model(request.path_params["name"])
        return JSONResponse(self.model)

    async def load_model(self, request: Request) -> Response:
        """POST /load_model, which `transformers chat` asks first: says that the model is there, and loads nothing."""
        async with self.bodies.read(request) as data:
            self.check_model(parse_json(data).get("model"))
        return Response(write_event({"status": "ready", "cached": True}), media_type="text/event-stream")

    async def show_health(self, _: Request) -> Response:
        """GET /health."""
        return JSONResponse({"status": "ok", "model": self.engine.name, "replies_open": self.jobs.open})

    async def show_addresses(self, _: Request) -> Response:
        """GET /, where there is no page."""
        addresses = ["/v1/chat/completions", "/v1/completions", "/v1/models", "/health"]
        return JSONResponse({"model": self.engine.name, "addresses": addresses})

    def check_model(self, name: object) -> None:
        """Raise ApiError for a model that is not here."""
        if name != self.engine.name:
            raise ApiError(404, f"that model is not here; this server has '{self.engine.name}'", "model",
                           code="model_not_found")  # fmt: skip

    # Replies

    async def answer(self, request: Request, kind: str) -> Response:
        """POST /v1/chat/completions, /v1/completions: answer a dialogue or continue a text, streamed or whole."""
        started = time.perf_counter()
        arguments = (self.engine.name, self.engine.window, self.sampling, self.system)
        async with self.bodies.read(request) as data:
            if len(data) <= QUICK_BYTES:
                asked = parse_request(kind, data, *arguments)
            else:
                async with self.parsing:
                    asked = await asyncio.to_thread(parse_request, kind, data, *arguments)
        job = self.jobs.start(asked)
        watcher = asyncio.create_task(cancel_at_hang_up(request, job))

        def end(outcome: str) -> None:
            watcher.cancel()
            if not job.cancelled.is_set():
                job.cancel()
            self.log_job(job, outcome, time.perf_counter() - started)

        try:
            await job.begin()  # what is wrong shows before the first piece, and still gets its status
            if asked.stream:
                events = self.stream(job, end)
                return StreamingResponse(events, media_type="text/event-stream", headers=STREAM_HEADERS)
            async for _ in job.read():
                pass
        except BaseException as error:
            end(type(error).__name__)
            raise
        end("whole")
        return JSONResponse(write_reply(asked, self.engine.name, job.texts, job.made()))

    async def stream(self, job: Job, end: Callable[[str], None]) -> AsyncIterator[bytes]:
        """Yield the events of a streamed answer; a fault in its midst is an event too."""
        asked, name, outcome = job.request, self.engine.name, "HangUpError"
        data = b""  # what is there at once goes out in one write, of which each costs as much as a token
        left = len(job.replies)
        try:
            for index in range(len(job.replies)) if asked.kind == "chat" else []:
                data += write_chunk(asked, name, [write_piece(asked, index, None)])
            async for index, piece in job.read():
                reason = None
                if piece is None:  # its choice has ended
                    ended = job.replies[index]
                    reason = (ended.finish_reason if ended else None) or "stop"
                data += write_chunk(asked, name, [write_piece(asked, index, piece, reason)])
                left -= piece is None
                if left and not job.has_more:
                    yield data
                    data = b""
            if asked.include_usage:
                data += write_chunk(asked, name, [], write_usage(job.made(), asked))
            yield data + write_event("[DONE]")
            outcome = "whole"
        except HangUpError:
            pass
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            outcome = type(error).__name__
            yield data + write_event(self.note_fault(error).body)
        finally:
            end(outcome)

    def log_job(self, job: Job, outcome: str, seconds: float) -> None:
        """Log what a request took; what was said only where that was asked for."""
        tokens = sum(reply.stats.reply_tokens for reply in job.made())
        log.info("%s: %d tokens in %.2f s, %s", job.request.kind, tokens, seconds, outcome)
        if self.options.log_conversations:
            said = {"asked": job.request.inputs, "replies": job.texts}
            log.info("%s", json.dumps(said, ensure_ascii=True))  # ASCII: a terminal that shows it keeps its state


async def cancel_at_hang_up(request: Request, job: Job) -> None:
    """End a job when its caller closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()


def write_error(request: Request, error: ApiError) -> Response:
    """Return and log an error."""
    code = error.body["error"]["code"] or error.body["error"]["type"]
    log.info("%s: %d %s", request.method, error.status, code)
    more = {429: {"retry-after": "1"}, 401: {"www-authenticate": "Bearer"}}.get(error.status, {})
    # As ASCII, which can hold all that a caller sent and an error repeats.
    return Response(json.dumps(error.body), error.status, HEADERS | more, "application/json")


async def send_file(data: bytes, kind: str, _: Request) -> Response:
    """Answer with a file of the page."""
    return Response(data, media_type=kind, headers={"cache-control": "no-cache"})
