"""/api/v2/ocr/jobs: long documents, in the job protocol of PaddleOCR's client."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from flask import Response, current_app, g, request, send_file
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict
from werkzeug.exceptions import NotFound
from werkzeug.http import parse_options_header

from serving.download import Url
from serving.errors import BadRequest, UnsupportedMedia
from serving.http.body import Body
from serving.http.context import json_response
from serving.http.errors import JOBS, ErrorAnswer
from serving.http.jobs import Job, JobRequest, JobState, Spool
from serving.http.logs import add_log_fields
from serving.http.openapi import READING_ERRORS, Routes
from serving.http.routes.ocr import NDJSON
from serving.http.routes.paddlex import InferOptions
from serving.http.service import Service
from serving.http.uploads import first_finding, parse_json, read_form
from serving.imaging.formats import RANGES_PATTERN
from serving.output.pages import described

blueprint = Routes("jobs", __name__, tag="Jobs")


class JobFields(BaseModel):
    """What every job has, in the names of PaddleOCR's client."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=64)]
    """The name of a pipeline that is served here. PaddleOCR's PP-OCRv5, PP-OCRv5-latin and PP-OCRv6
    stand for the first one, where none has that name."""
    pageRanges: Annotated[str, Field(json_schema_extra={"pattern": RANGES_PATTERN})] = "1-"
    """Which pages are read, for example 2,4-6; counted from 1."""
    batchId: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    """To ask for several jobs at once."""


class JobForm(JobFields):
    """A job whose document is sent along, as `multipart/form-data`."""

    file: bytes
    optionalPayload: str = "{}"
    """Overrides as JSON: `InferOptions`."""


class JobUrl(JobFields):
    """A job whose document is fetched, from a host that the server allows (--allow-url-hosts)."""

    fileUrl: Annotated[str, Field(pattern="^https?://")]
    optionalPayload: InferOptions = InferOptions()


class JobPath(BaseModel):
    """The end of `/api/v2/ocr/jobs/ID`."""

    job_id: str


class BatchPath(BaseModel):
    """The end of `/api/v2/ocr/jobs/batch/ID`."""

    batch_id: str


class JobResultQuery(BaseModel):
    """`/api/v2/ocr/results/ID?secret=SECRET`: in the query, which the log leaves out."""

    model_config = ConfigDict(extra="forbid")

    secret: str


@described
class JobProgress(TypedDict):
    """How far a job is."""

    totalPages: int
    extractedPages: int
    startTime: str | None
    endTime: str | None


@described
class JobResult(TypedDict):
    """Where the result is."""

    jsonUrl: str
    """JSON lines, one a page, as `POST /ocr` answers. Opens without a key: keep it secret."""


@described
class JobData(TypedDict):
    """One job."""

    jobId: str
    pipeline: str
    """What reads it."""
    state: JobState
    extractProgress: JobProgress
    resultUrl: NotRequired[JobResult]
    """Once it is done."""
    errorMsg: NotRequired[str]
    """Why it failed."""


@described
class BatchData(TypedDict):
    """Jobs that were given the same batchId."""

    batchId: str
    extractResult: list[JobData]


@described
class JobAnswer(TypedDict):
    """What PaddleOCR's client reads."""

    traceId: str
    code: Literal[0]
    msg: str
    data: JobData | BatchData


@described
class JobError(ErrorAnswer):
    """An error in both forms."""

    traceId: str
    code: int
    msg: str


_MODELS = ("PP-OCRv6", "PP-OCRv5", "PP-OCRv5-latin")
"""What PaddleOCR's client calls OCR; its other models parse documents."""
_BODIES: dict[str, Any] = {"multipart/form-data": JobForm, "application/json": JobUrl}
_TEXTS = tuple(name for name in JobForm.model_fields if name != "file")
_ANSWER = {"application/json": JobAnswer}


@blueprint.post(
    f"{JOBS}jobs",
    openapi_extensions=blueprint.body(_BODIES),
    responses=blueprint.answers(_ANSWER, 404, *READING_ERRORS, 507, error=JobError),
)
def submit() -> Response:
    """Take a document to read in the background."""
    service, spool = _service()
    body = Body.of(request.environ)
    service.admit(body)
    body.check()
    wanted, document, overrides = _read_body(body)
    pipeline = _pipeline(wanted.model, service.registry.names)
    options = overrides.options()
    if overrides.visualize:
        raise BadRequest("visualize: jobs have no pictures; POST /ocr has")
    service.registry.get(pipeline).check(options)
    [data] = service.fetch([document], request.environ)
    job = JobRequest(
        owner=_owner(),
        pipeline=pipeline,
        options=options.model_dump(),
        pages=wanted.pageRanges,
        batch=wanted.batchId,
    )
    job_id = service.take_job(job, data)
    add_log_fields(request.environ, job=job_id)
    return _answer(_data(spool.get(job_id, _owner())))


@blueprint.get(
    f"{JOBS}jobs/<job_id>", responses=blueprint.answers(_ANSWER, 401, 404, error=JobError)
)
def status(path: JobPath) -> Response:
    """How far a job is, and where its result is."""
    return _answer(_data(_service()[1].get(path.job_id, _owner())))


@blueprint.delete(
    f"{JOBS}jobs/<job_id>", responses=blueprint.answers(_ANSWER, 401, 404, error=JobError)
)
def cancel(path: JobPath) -> Response:
    """End a job, and remove its document and its result."""
    job = _service()[1].get(path.job_id, _owner())
    job.delete()
    return _answer(_data(job))


@blueprint.get(
    f"{JOBS}jobs/batch/<batch_id>", responses=blueprint.answers(_ANSWER, 401, 404, error=JobError)
)
def batch(path: BatchPath) -> Response:
    """The jobs of one batchId."""
    jobs = _service()[1].batch(path.batch_id, _owner())
    return _answer({"batchId": path.batch_id, "extractResult": [_data(job) for job in jobs]})


@blueprint.get(
    f"{JOBS}results/<job_id>",
    responses=blueprint.answers({NDJSON: str}, 400, 404, 429, error=JobError),
)
def result(path: JobPath, query: JobResultQuery) -> Response:
    """The pages of a job that is done, as JSON lines. Needs no key: the secret is one."""
    service, spool = _service()
    job = spool.get_result(path.job_id, query.secret)
    service.admit(Body.of(request.environ))  # a slow caller may hold a thread for long
    try:
        response = send_file(job.result, mimetype=NDJSON, etag=False)
    except FileNotFoundError:
        raise NotFound("the job has just been removed") from None
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Type"] = f"{NDJSON}; charset=utf-8"  # or the client guesses
    return response


def _service() -> tuple[Service, Spool]:
    """Raises NotFound where the server takes no jobs."""
    service: Service = current_app.extensions["ocr"]
    if service.spool is None:
        raise NotFound("this server takes no jobs: it runs with --spool-mb 0")
    return service, service.spool


def _owner() -> str:
    return str(g.get("owner", ""))


def _read_body(body: Body) -> tuple[JobForm | JobUrl, bytes | Url, InferOptions]:
    """What is wanted, the document, and the overrides. Raises BadRequest, UnsupportedMedia."""
    kind, options = parse_options_header(request.content_type or "")
    if kind.lower() == "multipart/form-data":
        files, texts = read_form(body, options.get("boundary", ""), 1, _TEXTS)
        if len(files) > 1:
            raise BadRequest(f"{len(files)} files; a job reads one")
        try:
            form = JobForm.model_validate({"file": files[0], **texts})
        except ValidationError as error:
            raise BadRequest(first_finding(error)) from None
        return form, form.file, parse_json(form.optionalPayload.encode(), InferOptions)
    if kind.lower() == "application/json":
        wanted = parse_json(body.read(), JobUrl)
        return wanted, Url(wanted.fileUrl), wanted.optionalPayload
    raise UnsupportedMedia(
        f"unsupported Content-Type {kind[:60]}; send multipart/form-data with file and model, or "
        "application/json with fileUrl and model"
    )


def _pipeline(model: str, names: tuple[str, ...]) -> str:
    """The pipeline that reads for a model. Raises BadRequest."""
    if model in names:
        return model
    if model in _MODELS:
        return names[0]
    raise BadRequest(
        f"model: no {model!r} here; there are: {', '.join(dict.fromkeys((*names, *_MODELS)))}"
    )


def _answer(data: JobData | BatchData) -> Response:
    return json_response({"traceId": g.request_id, "code": 0, "msg": "Success", "data": data})


def _data(job: Job) -> JobData:
    state = job.state
    data: JobData = {
        "jobId": job.id,
        "pipeline": job.request.pipeline,
        "state": state.state,
        "extractProgress": {
            "totalPages": state.total,
            "extractedPages": len(state.pages),
            "startTime": state.start,
            "endTime": state.end,
        },
    }
    if state.state == "done":
        data["resultUrl"] = {
            "jsonUrl": f"{_root()}{JOBS}results/{job.id}?secret={job.request.secret}"
        }
    if state.error is not None:
        data["errorMsg"] = state.error
    return data


def _root() -> str:
    """Our address as this caller knows it, also behind a proxy."""

    def forwarded(name: str, default: str) -> str:  # by several proxies, the first is the caller's
        return request.headers.get(f"X-Forwarded-{name}", default).partition(",")[0].strip()

    host, prefix = forwarded("Host", request.host), forwarded("Prefix", "").rstrip("/")
    return f"{forwarded('Proto', request.scheme)}://{host}{prefix}"
