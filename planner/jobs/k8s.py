"""A Job for Kubernetes, beside a ConfigMap with the files; several machines are an Indexed Job and a headless Service.

Field names are those of the API's batch/v1 and v1: kubernetes 37.0.2 client/models.
"""

from collections.abc import Mapping
from typing import Any

from planner.configs.written import Chosen, File, Written, comments
from planner.jobs.cards import PRODUCTS, known
from planner.jobs.needs import SHARED_GB, Needs, exports, needs_of, reasons, run_name, setup_lines

FILE = "job.yaml"
IMAGE = "python:3.12"
"""torch's wheels bring CUDA, and Triton finds a C compiler in it."""

FILES, WORK = "/files", "/work"
"""Where the ConfigMap lies, and where the run works: a ConfigMap cannot be written to."""

VOLUME = f"in {WORK}, on a volume of the cluster's"
"""Where data and models of this machine have to be brought."""

VARIABLES = (("MACHINE_RANK", "$JOB_COMPLETION_INDEX"),)
"""The first pod of an Indexed Job has the index 0 in its name: its address is no variable of the cluster's."""

LABEL = "nvidia.com/gpu.product"
RESOURCE = "nvidia.com/gpu"
"""What the vendor's device plugin calls a card."""
TOKEN = {"name": "hf-token", "key": "token", "optional": True}
"""A secret with the Hub's token, for models behind a licence."""


def write(chosen: Chosen, written: Written) -> Written:
    """``job.yaml``, which runs the files of ``written``."""
    needs, name = needs_of(chosen), run_name(chosen)
    parts: list[Mapping[str, Any]] = [_files(name, written), _job(name, written, needs)]
    if needs.nodes > 1:
        parts.insert(1, _service(name))
    text = "\n".join(comments(reasons(chosen, needs, VOLUME))) + "\n" + "---\n".join(_yaml(part) for part in parts)
    return Written(files=(File(FILE, text),), configs=(), launch=f"kubectl apply -f {FILE}")


def _files(name: str, written: Written) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {file.name: file.text for file in written.files},
    }


def _service(name: str) -> dict[str, Any]:
    """Gives the pods of the Job names to find each other by; they look before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"job-name": name}},
    }


def _job(name: str, written: Written, needs: Needs) -> dict[str, Any]:
    several = needs.nodes > 1
    indexed = {"completions": needs.nodes, "parallelism": needs.nodes, "completionMode": "Indexed"} if several else {}
    limit = {} if needs.hours is None else {"activeDeadlineSeconds": needs.hours * 3600}
    pod = {
        "restartPolicy": "Never",
        **({"subdomain": name} if several else {}),
        **_affinity(needs),
        "containers": [_container(name, written, needs)],
        "volumes": [
            {"name": "files", "configMap": {"name": name}},
            {"name": "work", "emptyDir": {}},
            {"name": "shared", "emptyDir": {"medium": "Memory", "sizeLimit": f"{SHARED_GB}G"}},
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, **indexed, **limit, "template": {"spec": pod}},
    }


def _container(name: str, written: Written, needs: Needs) -> dict[str, Any]:
    variables = (("MAIN_IP", f"{name}-0.{name}"), *VARIABLES)
    script = [
        "set -e",
        f"cp -L {FILES}/* {WORK}/ && cd {WORK}",
        *setup_lines(written),
        *exports(variables, needs),
        written.launch,
    ]
    amounts = {
        RESOURCE: str(needs.gpus),
        "cpu": str(needs.cpus),
        "memory": f"{needs.memory_gb + SHARED_GB}G",
        "ephemeral-storage": f"{needs.disk_gb}G",
    }
    return {
        "name": "train",
        "image": IMAGE,
        "command": ["bash", "-c", "\n".join(script) + "\n"],
        "env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": TOKEN}}],
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": [
            {"name": "files", "mountPath": FILES},
            {"name": "work", "mountPath": WORK},
            {"name": "shared", "mountPath": "/dev/shm"},
        ],
    }


def _affinity(needs: Needs) -> dict[str, Any]:
    """Nodes with such a card."""
    values = [label for one in known(needs.gpu, PRODUCTS, "k8s") for label in PRODUCTS[one]]
    wanted = {"key": LABEL, "operator": "In", "values": values}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [wanted]}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


def _yaml(part: Mapping[str, Any]) -> str:
    """One object, texts of several lines as such."""
    import yaml  # noqa: PLC0415  (only exports need it)

    def text(dumper: Any, value: str) -> Any:  # noqa: ANN401  (PyYAML has no types)
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    dumper: Any = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
    dumper.add_representer(str, text)
    found: str = yaml.dump(dict(part), Dumper=dumper, sort_keys=False, width=1000, allow_unicode=True)
    return found
