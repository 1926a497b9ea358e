"""The GitHub Action: GitHub's rules for its file, and its own scripts run with the real ``plan``."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.embedding.conftest import ROOT, Bash, blocks, fake

ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: dict[str, dict[str, Any]] = {step["name"]: step for step in ACTION["runs"]["steps"]}
MARK = "<!-- plan check -->"


# ---------------------------------------------------------------- the file


def test_it_keeps_githubs_schema() -> None:
    schemas = pytest.importorskip("check_jsonschema.builtin_schemas", reason="check-jsonschema is not installed")
    jsonschema = pytest.importorskip("jsonschema")
    schema = schemas.get_builtin_schema("vendor.github-actions")

    assert not list(jsonschema.Draft7Validator(schema).iter_errors(ACTION))


def test_it_is_what_github_asks_of_a_composite_action() -> None:
    """docs.github.com, Metadata syntax for GitHub Actions: what must be there, and what may."""
    assert set(ACTION) == {"name", "description", "author", "branding", "inputs", "outputs", "runs"}
    assert ACTION["runs"]["using"] == "composite"
    for step in ACTION["runs"]["steps"]:
        assert ("uses" in step) != ("run" in step)
        assert "run" not in step or step["shell"] == "bash"
    for one in ACTION["inputs"].values():
        assert one["description"]
        assert one.get("required", False) != ("default" in one)
    assert all(set(one) == {"description", "value"} for one in ACTION["outputs"].values())


def test_no_script_holds_an_input_itself() -> None:
    """A title of a pull request, or a path, must not become code: inputs reach scripts as variables only."""
    assert [name for name, step in STEPS.items() if "${{" in step.get("run", "")] == []


def test_every_input_and_every_step_is_used() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")

    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    assert set(re.findall(r"steps\.(\w+)\.", text)) == {"check"}
    for step in STEPS.values():
        if "run" in step:
            assert [name for name in step.get("env", {}) if f"${name}" not in step["run"] and name != "GH_TOKEN"] == []


def test_other_actions_are_named_by_their_version() -> None:
    assert [step["uses"] for step in STEPS.values() if "uses" in step] == ["actions/setup-python@v5"]


def test_the_page_shows_what_it_takes() -> None:
    (workflow,) = [body for body in blocks("yaml") if "uses: OWNER" in body]
    steps = yaml.safe_load(workflow)["jobs"]["fits"]["steps"]
    given = steps[-1]["with"]
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")

    assert set(given) <= set(ACTION["inputs"])
    assert {name for name, one in ACTION["inputs"].items() if one.get("required")} <= set(given)
    assert [name for name in ACTION["inputs"] if f"| `{name}` |" not in page] == []


# ---------------------------------------------------------------- its scripts


class Job:
    """A run of its steps in one job, with the files that GitHub gives."""

    def __init__(self, folder: Path, bash: Bash) -> None:
        self.folder, self._bash = folder, bash
        self.variables = {
            "RUNNER_TEMP": str(folder),
            "GITHUB_STEP_SUMMARY": str(folder / "summary"),
            "GITHUB_OUTPUT": str(folder / "output"),
            "GITHUB_REPOSITORY": "someone/models",
        }

    def check(self, config: str, *, gpu: str = "24gb", gpus: str = "", arguments: str = "") -> dict[str, str]:
        given = {"CONFIG": config, "GPU": gpu, "GPUS": gpus, "ARGUMENTS": arguments}
        done = self._bash(STEPS["Check"]["run"], {**self.variables, **given})
        assert (done.code, done.err) == (0, "")
        lines = (self.folder / "output").read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def summary(self) -> str:
        return (self.folder / "summary").read_text(encoding="utf-8")

    def run(self, step: str, **variables: str) -> Any:
        return self._bash(STEPS[step]["run"], {**self.variables, **variables})


@pytest.fixture
def job(folder: Path, bash: Bash) -> Job:
    return Job(folder, bash)


@pytest.mark.parametrize(
    ("config", "code", "says"),
    [
        ("fits.yaml", "0", ["fits.yaml fits: lora of llama-3.2-1b"]),
        ("too large.yaml", "4", ["too large.yaml does not fit"]),
        ("fits.yaml\ntoo large.yaml\n", "4", ["fits.yaml fits", "too large.yaml does not fit"]),
        ("too large.yaml\nunknown.yaml", "2", ["too large.yaml does not fit", "unknown.yaml is not planned"]),
        ("unknown.yaml\ntoo large.yaml", "2", ["unknown.yaml is not planned", "too large.yaml does not fit"]),
        ("nowhere.yaml", "2", ["nowhere.yaml is not planned", "error: "]),
        ("\n  \nfits.yaml\r\n", "0", ["fits.yaml fits"]),
        ("\n", "2", []),
    ],
)
def test_the_worst_answer_is_the_answer(job: Job, config: str, code: str, says: list[str]) -> None:
    outputs = job.check(config)

    assert outputs["code"] == code
    assert job.summary.startswith(MARK)
    assert [text for text in says if text not in job.summary] == []
    assert Path(outputs["report"]).read_text(encoding="utf-8") == job.summary


def test_options_reach_the_command(job: Job) -> None:
    assert (
        job.check("too large.yaml", gpu="h100", gpus="8", arguments="--sharding fsdp\n--headroom 1GiB")["code"] == "0"
    )
    assert "8 ×" in job.summary


def test_files_that_belong_together_are_one_question(job: Job) -> None:
    (job.folder / "accelerate.yaml").write_text(
        "distributed_type: MULTI_GPU\nnum_processes: 2\nmixed_precision: bf16\n"
    )

    assert job.check("fits.yaml accelerate.yaml")["code"] == "0"
    assert "2 ×" in job.summary


@pytest.mark.parametrize(
    "config", ["$(touch ran)", "`touch ran`", "fits.yaml; touch ran", "; touch ran", "* | touch ran"]
)
def test_nothing_in_an_input_is_run(job: Job, config: str) -> None:
    job.check(config, arguments="; touch ran; $(touch ran) `touch ran`")

    assert not (job.folder / "ran").exists()


GH = """printf '%s\\n' "$*" >> "$RUNNER_TEMP/calls"
for word in "$@"; do case $word in body=@*) cp "${word#body=@}" "$RUNNER_TEMP/body";; esac; done
case "$*" in *--jq*) printf '%s' "$BEFORE";; *) exit "${FAILS:-0}";; esac"""


@pytest.mark.parametrize(
    ("before", "call"),
    [
        ("", "api --silent --method POST repos/someone/models/issues/7/comments"),
        ("31\n32\n", "api --silent --method PATCH repos/someone/models/issues/comments/31"),
    ],
)
def test_one_comment_that_later_runs_replace(job: Job, before: str, call: str) -> None:
    report = job.check("fits.yaml")["report"]
    fake(job.folder, "gh", GH)

    done = job.run("Comment on the pull request", NUMBER="7", REPORT=report, BEFORE=before, GH_TOKEN="x")

    calls = (job.folder / "calls").read_text().splitlines()
    assert (done.code, done.out) == (0, "")
    assert calls[0].startswith("api --paginate repos/someone/models/issues/7/comments --jq")
    assert calls[1].startswith(call)
    assert (job.folder / "body").read_text(encoding="utf-8") == job.summary


def test_a_comment_that_may_not_be_written_fails_nothing(job: Job) -> None:
    report = job.check("fits.yaml")["report"]
    fake(job.folder, "gh", GH)

    done = job.run("Comment on the pull request", NUMBER="7", REPORT=report, BEFORE="", FAILS="1", GH_TOKEN="x")

    assert (done.code, done.out.startswith("::warning::")) == (0, True)


def test_a_long_report_is_cut_for_a_comment(job: Job) -> None:
    """GitHub takes 65,536 characters."""
    fake(job.folder, "gh", GH)
    report = job.folder / "long.md"
    report.write_text("x" * 100_000)

    assert job.run("Comment on the pull request", NUMBER="7", REPORT=str(report), BEFORE="").code == 0
    assert len((job.folder / "body").read_text()) == 60_000


def test_the_filter_finds_our_comment_only() -> None:
    """The program for jq, by hand: bodies that begin with the mark that the report begins with."""
    (program,) = re.findall(r"--jq '(.*?)'", STEPS["Comment on the pull request"]["run"])

    assert program == f".[] | select(.body | startswith({json.dumps(MARK)})) | .id"


@pytest.mark.parametrize("code", ["2", "3", "4"])
def test_the_job_fails_by_the_code(job: Job, code: str) -> None:
    assert STEPS["Fail where one does not fit"]["if"] == "steps.check.outputs.code != '0'"
    assert job.run("Fail where one does not fit", CODE=code).code == int(code)


@pytest.mark.parametrize(("version", "asks"), [("", "/action"), ("1.2", "finetune-planner==1.2")])
def test_what_is_installed(job: Job, version: str, asks: str) -> None:
    fake(job.folder, "python", 'printf "%s\\n" "$*" > "$RUNNER_TEMP/calls"')

    assert job.run("Install", VERSION=version, SOURCE="/action").code == 0
    assert (job.folder / "calls").read_text().split() == [
        "-m", "pip", "install", "--quiet", "--disable-pip-version-check", asks,
    ]  # fmt: skip
