"""The manifests hold what KubeRay asks: its definitions, its operator's rules, Serve's own schema.

The API server drops unknown fields in silence and the operator refuses some that the definitions
allow, so both are looked for here, and each check is shown to find a planted fault. The
definitions are not part of this repository: ICEFLOE_CRD_DIR, or ../shared/kuberay_crds.
"""

import copy
import importlib
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CRDS = Path(os.environ.get("ICEFLOE_CRD_DIR", ROOT.parent / "shared" / "kuberay_crds"))
MANIFESTS = ("rayjob", "rayservice")
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}
LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
Manifest = dict[str, Any]


def manifest(name: str) -> Manifest:
    return dict(yaml.safe_load((ROOT / "k8s" / f"{name}.yaml").read_text()))


@cache
def definition(kind: str, version: str) -> dict[str, Any]:
    """The schema of a kind; skips the test where the definitions are not at hand."""
    path = CRDS / f"{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip(f"no {path}: set ICEFLOE_CRD_DIR to KubeRay's config/crd/bases")
    text = path.read_text()
    crd = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    found = {v["name"]: v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"]}
    return dict(found[version])


def strays(data: Manifest) -> list[str]:
    """Everything in a manifest that its definition does not have or does not allow."""
    version = data["apiVersion"].removeprefix("ray.io/")
    return list(_strays(definition(data["kind"], version), data, ""))


def _strays(schema: dict[str, Any], value: Any, at: str) -> Iterator[str]:
    if value is None and schema.get("nullable"):
        return
    if schema.get("x-kubernetes-int-or-string"):
        fits = isinstance(value, int | str) and not isinstance(value, bool)
    else:
        wanted = TYPES[schema.get("type", "object")]
        fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if not fits:
        yield f"{at}: {value!r} is no {schema.get('type', 'integer or string')}"
    elif isinstance(value, dict):
        yield from _stray_fields(schema, value, at)
    elif isinstance(value, list):
        for k, item in enumerate(value):
            yield from _strays(schema["items"], item, f"{at}[{k}]")
    else:
        yield from _stray_scalar(schema, value, at)


def _stray_fields(schema: dict[str, Any], value: dict[str, Any], at: str) -> Iterator[str]:
    known = schema.get("properties")
    if not known and "additionalProperties" not in schema:
        return  # metadata, and what the API server keeps unread
    for key in schema.get("required", ()):
        if key not in value and "default" not in (known or {}).get(key, {}):
            yield f"{at}: {key} is missing"
    for key, item in value.items():
        below = (known or {}).get(key) or schema.get("additionalProperties")
        if below is None and not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{at}: no field {key!r}"
        elif isinstance(below, dict):
            yield from _strays(below, item, f"{at}.{key}")


def _stray_scalar(schema: dict[str, Any], value: Any, at: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if "pattern" in schema and not re.search(schema["pattern"], str(value)):
        yield f"{at}: {value!r} does not match {schema['pattern']}"
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{at}: {value!r} is below {schema['minimum']}"
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield f"{at}: longer than {schema['maxLength']}"
    if "minLength" in schema and len(value) < schema["minLength"]:
        yield f"{at}: shorter than {schema['minLength']}"


def faults(data: Manifest) -> list[str]:
    """What the operator refuses, or starts and then waits on, though the definition allows it."""
    job = data["kind"] == "RayJob"
    cluster = data["spec"]["rayClusterSpec" if job else "rayClusterConfig"]
    found = [*_name_faults(data), *_cluster_faults(cluster), *_group_faults(cluster)]
    return [*found, *(_job_faults(data["spec"]) if job else _service_faults(data["spec"]))]


def _name_faults(data: Manifest) -> Iterator[str]:
    name = data["metadata"]["name"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"name {name!r} is no DNS-1035 label"
    if len(name) > LONGEST[data["kind"]]:
        yield f"name {name!r} is longer than {LONGEST[data['kind']]}"


def _cluster_faults(cluster: dict[str, Any]) -> Iterator[str]:
    version = tuple(map(int, cluster.get("rayVersion", "0").split(".")))
    if cluster.get("authOptions", {}).get("mode") == "token" and version < (2, 52):
        yield "token authentication needs a rayVersion of 2.52 or later"
    head = _environment(cluster["headGroupSpec"])
    if cluster.get("enableInTreeAutoscaling"):
        options = cluster.get("autoscalerOptions", {})
        if "version" in options and "RAY_enable_autoscaler_v2" in head:
            yield "the autoscaler's version is set twice"
        for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])):
            if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
                yield "autoscaler v2 needs restartPolicy Never or none"
    elif head.get("RAY_enable_autoscaler_v2") in ("1", "true"):
        yield "RAY_enable_autoscaler_v2 without enableInTreeAutoscaling"
    if "REDIS_USERNAME" in head:
        yield "the Redis user name goes into gcsFaultToleranceOptions"
    elif {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"} & head.keys():
        yield "Redis goes into gcsFaultToleranceOptions"


def _group_faults(cluster: dict[str, Any]) -> Iterator[str]:
    for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])):
        name, given = group.get("groupName", "head"), group.get("rayStartParams", {})
        if not group["template"]["spec"].get("containers"):
            yield f"{name}: no container"
        if {"num-cpus", "num-gpus", "memory", "resources"} & given.keys() and group.get(
            "resources"
        ):
            yield f"{name}: resources both in rayStartParams and beside them"
        if "labels" in given:
            yield f"{name}: labels go beside rayStartParams"
        if {"redis-password", "redis-username"} & given.keys():
            yield f"{name}: Redis goes into gcsFaultToleranceOptions"
        if not group.get("minReplicas", 0) <= group.get("maxReplicas", 2**31 - 1):
            yield f"{name}: minReplicas above maxReplicas"


def _environment(group: dict[str, Any]) -> dict[str, Any]:
    containers = group["template"]["spec"].get("containers") or [{}]
    return {e["name"]: e.get("value") for e in containers[0].get("env", [])}


def _job_faults(spec: dict[str, Any]) -> Iterator[str]:
    ends, mode = spec.get("shutdownAfterJobFinishes"), spec.get("submissionMode", "K8sJobMode")
    if mode not in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"):
        yield f"no submissionMode {mode!r}"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not ends:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec.get("suspend") and not ends:
        yield "suspend needs shutdownAfterJobFinishes"
    if "deletionStrategy" in spec and (ends or spec.get("ttlSecondsAfterFinished")):
        yield "deletionStrategy excludes shutdownAfterJobFinishes and its ttl"
    if ("rayClusterSpec" in spec) == bool(spec.get("clusterSelector")):
        yield "one of rayClusterSpec and clusterSelector"
    if spec.get("backoffLimit", 0) and mode == "InteractiveMode":
        yield "InteractiveMode has no backoffLimit"
    if mode == "SidecarMode":
        if {"clusterSelector", "submitterPodTemplate", "submitterConfig"} & spec.keys():
            yield "SidecarMode takes no cluster selector or submitter settings"
        head = spec.get("rayClusterSpec", {}).get("headGroupSpec", {})
        if head.get("template", {}).get("spec", {}).get("restartPolicy", "Never") != "Never":
            yield "SidecarMode needs the head's restartPolicy Never or none"


def _service_faults(spec: dict[str, Any]) -> Iterator[str]:
    service = spec["rayClusterConfig"]["headGroupSpec"].get("headService", {})
    if service.get("metadata", {}).get("name"):
        yield "the head service has a name of its own"
    upgrade = spec.get("upgradeStrategy", {})
    if upgrade.get("type", "None") not in (
        "NewCluster",
        "NewClusterWithIncrementalUpgrade",
        "None",
    ):
        yield f"no upgrade type {upgrade['type']!r}"
    yield from serve_faults(spec["serveConfigV2"])


def serve_faults(text: str) -> Iterator[str]:
    """What Serve would refuse in a config, or accept and ignore."""
    from ray.serve.schema import ServeDeploySchema

    data = yaml.safe_load(text)
    try:
        parsed = ServeDeploySchema.model_validate(data)
    except ValueError as e:
        yield str(e)
        return
    yield from _unread(data, parsed, "serveConfigV2")


def _unread(data: Any, model: Any, at: str) -> Iterator[str]:
    """Keys of `data` that a pydantic model took no notice of, all the way down."""
    if at.endswith(".autoscaling_config"):  # the schema leaves it a dictionary
        from ray.serve.config import AutoscalingConfig

        model = AutoscalingConfig.model_validate(data)
    if isinstance(data, list):
        for k, (item, part) in enumerate(zip(data, model, strict=True)):
            yield from _unread(item, part, f"{at}[{k}]")
    elif isinstance(data, dict) and hasattr(type(model), "model_fields"):
        for key, item in data.items():
            if key not in type(model).model_fields:
                yield f"{at}: no field {key!r}"
            else:
                yield from _unread(item, getattr(model, key), f"{at}.{key}")


def groups(data: Manifest) -> list[dict[str, Any]]:
    cluster = data["spec"].get("rayClusterSpec") or data["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_definitions_have_every_field(name: str) -> None:
    assert strays(manifest(name)) == []


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_operator_refuses_nothing(name: str) -> None:
    assert faults(manifest(name)) == []


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_pod_can_do_little_and_is_bounded(name: str) -> None:
    head, *workers = groups(manifest(name))
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert all(w["template"]["spec"]["automountServiceAccountToken"] is False for w in workers)
    for group in (head, *workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["limits"].keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        secret = [e for e in container["env"] if re.search("KEY|TOKEN|PASSWORD", e["name"])]
        assert all("value" not in e for e in secret)


def test_the_image_is_what_the_manifests_count_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ray = next(d for d in project["dependencies"] if d.startswith("ray["))
    docker = (ROOT / "k8s" / "Dockerfile").read_text()
    for name in MANIFESTS:
        data = manifest(name)
        cluster = data["spec"].get("rayClusterSpec") or data["spec"]["rayClusterConfig"]
        assert cluster["rayVersion"].startswith(ray.split("==")[1].rstrip("*"))
        for group in groups(data):
            (container,) = group["template"]["spec"]["containers"]
            assert container["image"] == f"icefloe:{project['version']}"
            assert group["template"]["spec"]["securityContext"]["runAsUser"] == 1000
    assert docker.rstrip().endswith("USER 1000:1000")
    assert all(f" {tool}" in docker for tool in ("bash", "wget", "bubblewrap"))
    assert all((ROOT / path).exists() for path in re.findall(r"^COPY (\w+) \w+$", docker, re.M))


def test_the_entrypoint_is_a_command_line_of_ours() -> None:
    from typer.main import get_command

    from cluster.cli import cli

    words = shlex.split(manifest("rayjob")["spec"]["entrypoint"])
    python, flag, module, command, recipe, *rest = words
    assert (python, flag, module, command) == ("python", "-m", "cluster.cli", "run")
    found = get_command(cli).commands[command]  # type: ignore[attr-defined]
    given = found.make_context(command, [recipe, *rest]).params
    assert (given["recipe"], given["store"]) == (recipe, "/store")
    mounts = groups(manifest("rayjob"))[0]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert mounts[0]["mountPath"] == "/store"


def test_serve_can_build_what_the_service_names() -> None:
    from serve.app import Args, Icefloe

    (application,) = yaml.safe_load(manifest("rayservice")["spec"]["serveConfigV2"])["applications"]
    module, _, name = application["import_path"].partition(":")
    build = getattr(importlib.import_module(module), name)
    assert build.__annotations__["args"] is Args
    given = Args.model_validate(application["args"])
    (deployment,) = application["deployments"]
    assert deployment["name"] == Icefloe.name  # type: ignore[attr-defined]
    assert given.threads == deployment["ray_actor_options"]["num_cpus"]
    limits = groups(manifest("rayservice"))[1]["template"]["spec"]["containers"][0]["resources"]
    assert int(limits["limits"]["cpu"]) >= deployment["ray_actor_options"]["num_cpus"]


def test_the_config_to_deploy_is_the_services() -> None:
    alone = (ROOT / "k8s" / "serve.yaml").read_text()
    assert yaml.safe_load(alone) == yaml.safe_load(manifest("rayservice")["spec"]["serveConfigV2"])
    assert list(serve_faults(alone)) == []


def test_the_services_settings_are_ours() -> None:
    from serve.app import Icefloe
    from serve.settings import Settings

    (application,) = yaml.safe_load(manifest("rayservice")["spec"]["serveConfigV2"])["applications"]
    (deployment,) = application["deployments"]
    settings = Settings.model_validate(deployment["user_config"])
    served = yaml.safe_load(manifest("rayservice")["spec"]["serveConfigV2"])["http_options"]
    assert settings.timeout_s < served["request_timeout_s"]
    pod = groups(manifest("rayservice"))[1]["template"]["spec"]
    assert deployment["graceful_shutdown_timeout_s"] < pod["terminationGracePeriodSeconds"]
    assert Icefloe.name == deployment["name"]  # type: ignore[attr-defined]
    environment = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
    module, _, name = environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].partition(":")
    assert getattr(importlib.import_module(module), name)()


def put(path: str, value: Any) -> Callable[[Manifest], None]:
    """A change of a manifest: dotted path, numbers are list places."""

    def change(data: Any) -> None:
        *parents, last = path.split(".")
        for part in parents:
            data = data[int(part)] if part.isdigit() else data[part]
        data[last] = value

    return change


HEAD = "spec.rayClusterSpec.headGroupSpec"
WORKER = "spec.rayClusterSpec.workerGroupSpecs.0"


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("spec.shutdownAfterJobFinish", True, "no field 'shutdownAfterJobFinish'"),
        ("spec.backoffLimit", "2", "'2' is no integer"),
        ("spec.shutdownAfterJobFinishes", 1, "1 is no boolean"),
        ("spec.rayClusterSpec.authOptions", {"mode": "on"}, "none of"),
        (f"{HEAD}.rayStartParams", {"num-cpus": 0}, "0 is no string"),
        (f"{HEAD}.template.spec.containers.0.imagePulPolicy", "Always", "imagePulPolicy"),
        (f"{WORKER}.template.spec.containers", [{"image": "x"}], "name is missing"),
        (f"{WORKER}.template.spec.containers.0.resources.limits", {"memory": "8 G"}, "not match"),
    ],
)
def test_a_planted_stray_is_found(path: str, value: Any, fault: str) -> None:
    data = copy.deepcopy(manifest("rayjob"))
    put(path, value)(data)
    assert any(fault in line for line in strays(data)), strays(data)


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("metadata.name", "Icefloe", "DNS-1035"),
        ("metadata.name", "i" * 48, "longer than 47"),
        ("spec.submissionMode", "Sidecar", "no submissionMode"),
        ("spec.shutdownAfterJobFinishes", False, "needs shutdownAfterJobFinishes"),
        ("spec.deletionStrategy", {"deletionRules": []}, "excludes"),
        ("spec.clusterSelector", {"ray.io/cluster": "x"}, "one of"),
        ("spec.submitterConfig", {"backoffLimit": 3}, "submitter settings"),
        ("spec.rayClusterSpec.rayVersion", "2.51.0", "2.52"),
        (f"{HEAD}.template.spec.restartPolicy", "Always", "SidecarMode needs"),
        (f"{HEAD}.resources", {"CPU": "0"}, "resources both"),
        (f"{HEAD}.rayStartParams", {"labels": "a=b"}, "labels go"),
        (f"{WORKER}.template.spec.restartPolicy", "OnFailure", "autoscaler v2"),
        (f"{WORKER}.minReplicas", 9, "above maxReplicas"),
    ],
)
def test_a_planted_fault_is_found(path: str, value: Any, fault: str) -> None:
    data = copy.deepcopy(manifest("rayjob"))
    put(path, value)(data)
    assert any(fault in line for line in faults(data)), faults(data)


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("deployments:", "deploymnts:", "no field 'deploymnts'"),
        ("num_cpus:", "num_cpu:", "no field 'num_cpu'"),
        ("min_replicas:", "minimum:", "no field 'minimum'"),
        ("port: 8000", "port: http", "valid integer"),
        ("import_path:", "import:", "import_path"),
    ],
)
def test_a_planted_serve_fault_is_found(before: str, after: str, fault: str) -> None:
    text = manifest("rayservice")["spec"]["serveConfigV2"]
    assert list(serve_faults(text)) == []
    found = list(serve_faults(text.replace(before, after)))
    assert any(fault in line for line in found), found
