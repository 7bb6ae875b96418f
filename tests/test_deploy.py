"""What is in deploy/ is valid for those who read it, and names only what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

from serving.cli.serve import command

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
CUSTOM = {"ScaledObject": ScaledObject, "ServiceMonitor": ServiceMonitor}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_every_setting_is_one_of_serve() -> None:
    known = {option.envvar for option in command.params if getattr(option, "envvar", None)}
    files = [ROOT / "Dockerfile", *(path for path in DEPLOY.rglob("*") if path.is_file())]
    used = {name for path in files for name in re.findall(r"OCR_HPI_[A-Z_]+", path.read_text())}
    assert "OCR_HPI_HOST" in used
    assert used <= known
    unit = (DEPLOY / "systemd" / "ocr-hpi.service").read_text()
    [start] = re.findall(r"ExecStart=(.*)", unit)
    flags = {flag for option in command.params for flag in option.opts}
    assert set(re.findall(r"--[a-z-]+", start)) <= flags


def test_every_pipeline_and_file_is_there() -> None:
    for path in (ROOT / "Dockerfile", *DEPLOY.rglob("*.yaml")):
        for name in re.findall(r"configs/[\w.-]+\.yaml", path.read_text()):
            assert (ROOT / name).is_file(), path
    for kustomization in KUBERNETES.glob("*/kustomization.yaml"):
        content, folder = load(kustomization), kustomization.parent
        patches = [patch["path"] for patch in content.get("patches", ())]
        named = {folder / name for name in [*content["resources"], *patches]}
        assert all(path.exists() for path in named)
        assert set(folder.glob("*.yaml")) - {kustomization} <= named


def test_the_compose_file() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, DEPLOY / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for service in load(DEPLOY / "compose.yaml")["services"].values():
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["environment"]["OCR_HPI_API_KEYS_FILE"] == "/run/secrets/keys"


def check_manifest(manifest: dict[str, Any]) -> None:
    kind = CUSTOM.get(manifest["kind"])
    if kind is None:
        kubernetes_validate.validate(manifest, "1.37", strict=True)
    else:  # these models drop what they do not know
        model = kind.model_validate(manifest)
        assert model.model_dump(by_alias=True, exclude_unset=True, mode="json") == manifest


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in ("base", "autoscaling")
        for path in sorted((KUBERNETES / folder).glob("*.yaml"))
        if path.name != "kustomization.yaml"
    ],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_a_manifest(path: Path) -> None:
    manifest = load(path)
    check_manifest(manifest)
    assert manifest["metadata"]["name"].startswith("ocr-hpi")


def test_what_kustomize_makes(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    both = tmp_path / "kubernetes" / "own"
    both.mkdir()
    (both / "kustomization.yaml").write_text("resources: [../gpu]\ncomponents: [../autoscaling]\n")
    done = subprocess.run(["kubectl", "kustomize", both], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}
    assert made.keys() >= {"Deployment", "PodDisruptionBudget", "NetworkPolicy", *CUSTOM}
    for manifest in made.values():
        check_manifest(manifest)
    pod = made["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == "gpu"
    for kind in ("PodDisruptionBudget", "Deployment"):
        assert made[kind]["spec"]["selector"]["matchLabels"] == labels
    assert made["Service"]["spec"]["selector"] == labels
    (plan,), (server,) = pod["spec"]["initContainers"], pod["spec"]["containers"]
    assert plan["resources"] == server["resources"]  # the plan is for so many cores
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_systemd_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (apt-get install systemd)")
    unit = tmp_path / "ocr-hpi.service"
    text = (DEPLOY / "systemd" / "ocr-hpi.service").read_text()
    program = Path(sys.executable).with_name("ocr-hpi")
    unit.write_text(text.replace("/opt/ocr-hpi/bin/ocr-hpi", str(program)))
    verify = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (verify.returncode, verify.stderr) == (0, "")
    security = ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit]
    assert subprocess.run(security, capture_output=True).returncode == 0
