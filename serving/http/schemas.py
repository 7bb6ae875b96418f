"""What requests and answers consist of: checked by pydantic, described in /openapi.json."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, ValidationError, with_config
from typing_extensions import TypedDict

from serving.config.options import Options, PdfText
from serving.errors import BadRequest
from serving.http.errors import ErrorAnswer, ErrorDetail
from serving.http.jobs import JobState
from serving.http.uploads import Base64OrUrl, first_finding
from serving.imaging.formats import RANGES_PATTERN
from serving.output.formats import DocumentName
from serving.output.pages import PageAnswer, described

Format = Literal["lines", "pages", "image", "paddlex", DocumentName]


def _no_null(schema: dict[str, Any]) -> None:
    """A parameter that is not given is absent: a query has no null."""
    for name, field in schema["properties"].items():
        [kind] = [kind for kind in field.pop("anyOf", [field]) if kind != {"type": "null"}]
        schema["properties"][name] = {**field, **kind}
        schema["properties"][name].pop("title", None)
        if field.get("default", ...) is None:
            del schema["properties"][name]["default"]


class PipelinePath(BaseModel):
    """Of `/ocr/v1/NAME` and `/v2/models/NAME`."""

    name: str


class CallerOptions(Options):
    """Overrides for this request alone, within what a caller may ask for."""

    text_det_max_side_limit: Annotated[int, Field(ge=1, le=4000)] | None = None
    """The long side never has more pixels than that. A caller cannot ask for more than 4000."""

    def options(self) -> Options:
        """The overrides alone."""
        return Options(**self.model_dump(include=set(Options.model_fields)))


class OcrQuery(CallerOptions):
    """`POST /ocr/v1/NAME?...`: the form of the answer, and overrides for this request alone."""

    model_config = ConfigDict(json_schema_extra=_no_null)

    format: Format | None = None
    """The form of the answer; default: what Accept prefers, else lines."""
    pdf_dpi: Annotated[int, Field(ge=36, le=1200)] = 144
    """Dots per inch at which pages of a PDF are drawn; boxes are in their pixels."""
    pages: Annotated[str, Field(json_schema_extra={"pattern": RANGES_PATTERN})] = "1-"
    """Which pages of each document are read, for example 1-3,7 or 2-; no other is decoded."""
    pdf_text: PdfText = "ignore"
    """auto: take a PDF page's own text where it is all there, and read the other pages."""
    partial: bool = False
    """With format=lines or pages: what cannot be read has an error, and the rest is answered."""
    pictures: bool = False
    """With format=pages: each page's picture too, for viewers that cannot draw the document."""


class InferOptions(BaseModel):
    """Overrides in PaddleX's names; what is not given is as the YAML says."""

    model_config = ConfigDict(frozen=True)  # unknown fields are passed over, as PaddleX does

    useDocOrientationClassify: bool | None = None
    useDocUnwarping: bool | None = None
    useTextlineOrientation: bool | None = None
    textDetLimitSideLen: int | None = None
    textDetLimitType: str | None = None
    textDetThresh: float | None = None
    textDetBoxThresh: float | None = None
    textDetUnclipRatio: float | None = None
    textRecScoreThresh: float | None = None
    returnWordBox: bool | None = None
    visualize: bool | None = None

    def options(self) -> Options:
        """The overrides. Raises BadRequest."""
        try:
            return Options(
                use_doc_orientation_classify=self.useDocOrientationClassify,
                use_doc_unwarping=self.useDocUnwarping,
                use_textline_orientation=self.useTextlineOrientation,
                text_det_limit_side_len=self.textDetLimitSideLen,
                text_det_limit_type=self.textDetLimitType,
                text_det_thresh=self.textDetThresh,
                text_det_box_thresh=self.textDetBoxThresh,
                text_det_unclip_ratio=self.textDetUnclipRatio,
                text_rec_score_thresh=self.textRecScoreThresh,
                return_word_box=self.returnWordBox,
            )
        except ValidationError as error:
            raise BadRequest(first_finding(error)) from None


class InferRequest(InferOptions):
    """The body of `POST /ocr`."""

    file: Base64OrUrl
    fileType: Literal[0, 1] | None = None
    """0: PDF, 1: image. Not needed: the bytes tell."""
    logId: str | None = None


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


@with_config(ConfigDict(use_attribute_docstrings=True, extra="allow"))
class EngineAnswer(TypedDict):
    """What a model runs on."""

    name: NotRequired[str]
    """As `ocr-hpi plan` prints it; on a CPU, 2x4 is 2 streams of 4 threads each."""
    backend: str
    precision: NotRequired[str]
    streams: NotRequired[int]
    """Calls that run side by side."""
    threads: NotRequired[int]
    """Threads of all streams together."""
    options: NotRequired[dict[str, Any]]
    """Settings in the backend's own words."""


@described
class ModelAnswer(TypedDict):
    """One model and the engine in force."""

    model: str
    engine: EngineAnswer


@described
class MeasuredAnswer(TypedDict):
    """What was measured of one model's engine."""

    ms: float | None
    """Shortest time of the model's share of the calibration pages."""
    figures: dict[str, float]
    """What the accuracy gate found against float32 ONNX Runtime."""


@described
class WorkersAnswer(TypedDict):
    """What so many worker processes, which share the cores, read together."""

    workers: int
    pages_per_second: float | None
    latency_ms: float | None
    """Of a single request."""
    memory_mb: dict[str, int]
    """MiB of one process at most: `memory` and, with a GPU, `GPU memory`."""
    chosen: bool
    reason: str
    """Why it was not chosen, or not measured."""
    noise: float
    """Relative spread of the measurements where they left the choice open, else 0."""


@described
class PlanAnswer(TypedDict):
    """The engine plan in force, as it was measured on this machine."""

    key: str
    made: str
    cores: int
    pages_per_second: NotRequired[float]
    latency_ms: NotRequired[float]
    """Of a single request with a whole page."""
    small_latency_ms: NotRequired[float]
    """Of a single request with a small picture."""
    models: dict[str, MeasuredAnswer]
    workers: int
    """Worker processes that `serve` starts unless it is told a number; for each of several GPUs."""
    worker_trials: list[WorkersAnswer]


@described
class PipelineAnswer(TypedDict):
    """One pipeline that is served."""

    name: str
    url: str
    """Relative to this address, so that it holds behind a proxy with a path prefix."""
    ready: bool
    models: NotRequired[dict[str, ModelAnswer]]
    """By section of the pipeline's YAML, once loaded."""
    plan: NotRequired[PlanAnswer]


@described
class ReloadError(TypedDict):
    """Why the last reload, or the last replacement of a worker, failed."""

    time: str
    message: str


@described
class ReloadAnswer(TypedDict):
    """How it stands with loading files anew."""

    state: Literal["idle", "loading", "finishing"]
    """`finishing`: the new ones serve, the old ones finish what they have in work."""
    error: ReloadError | None


@described
class PipelinesAnswer(TypedDict):
    """What is served here."""

    pipelines: list[PipelineAnswer]
    generation: NotRequired[int]
    """Grows by one with every reload that succeeds."""
    reload: NotRequired[ReloadAnswer]


@described
class FailedPage(TypedDict):
    """With `partial`: a document, or a page of one, that cannot be read."""

    image: int
    page: NotRequired[int]
    """Of a document whose other pages may be fine."""
    error: ErrorDetail


@described
class PagesAnswer(TypedDict):
    """The answer of `format=pages`."""

    request_id: str
    pages: list[PageAnswer | FailedPage]
    timing: dict[str, float]
    """Milliseconds by stage, all pages together."""
    engine: dict[str, ModelAnswer]
    """What read it, by section of the pipeline's YAML."""


@described
class InferError(ErrorAnswer):
    """An error in both forms."""

    logId: str
    errorCode: int
    errorMsg: str


@described
class HealthAnswer(TypedDict):
    """PaddleX's own health check."""

    logId: str
    errorCode: Literal[0]
    errorMsg: str


@described
class HealthState(TypedDict):
    """Of GET /health/live and /health/ready."""

    status: str
