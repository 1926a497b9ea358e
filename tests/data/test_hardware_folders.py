"""Folders of profiles: the index, a user's own, and what a broken file is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from planner.errors import BrokenInput, PlannerError, UnknownName, UsageError
from planner.hardware import INDEX, list_gpus, load_gpu, render_index, shipped_dir, user_dir, write_index
from planner.units import MIB

PROFILES = shipped_dir()


@pytest.fixture(autouse=True)
def no_profiles_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


# ---------------------------------------------------------------- index


def test_index_is_current() -> None:
    expected = render_index(PROFILES)

    assert (PROFILES / INDEX).read_text() == expected, "run write_index() of planner.hardware"


def test_with_a_current_index_nothing_is_parsed() -> None:
    code = (
        "import sys; from planner import hardware; hardware.load_gpu('4090'); hardware.list_gpus(); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    assert set(loaded) & {"tomllib", "pydantic", "planner.hardware_schema", "torch", "numpy", "rich"} == set()


def test_a_stale_or_broken_index_never_changes_a_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = _copy(tmp_path / "shipped")
    monkeypatch.setattr("planner.hardware.shipped_dir", lambda: folder)
    changed = folder / "rtx4090.toml"
    changed.write_text(changed.read_text().replace("memory_gb_per_s = 1008", "memory_gb_per_s = 2000"))
    (folder / INDEX).write_text(render_index(PROFILES))
    assert load_gpu("4090").bandwidth_bytes_per_s == 2000e9

    for number, broken in enumerate(("", "[]", "{}", '{"format": 0, "files": {}}', "\x00")):
        other = _copy(tmp_path / str(number), only=("l4.toml",))
        (other / INDEX).write_text(broken)
        monkeypatch.setattr("planner.hardware.shipped_dir", lambda folder=other: folder)
        assert load_gpu("l4").memory_bytes == 22563 * MIB


def test_write_index_makes_what_the_test_asks_for(tmp_path: Path) -> None:
    folder = _copy(tmp_path / "shipped", only=("l4.toml", "t4.toml"))

    assert write_index(folder).read_text() == render_index(folder)
    assert set(json.loads((folder / INDEX).read_text())["files"]) == {"l4.toml", "t4.toml"}


def test_an_installation_without_profiles_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("planner.hardware.shipped_dir", lambda: tmp_path)

    with pytest.raises(BrokenInput, match="no hardware profiles found"):
        load_gpu("4090")


# ---------------------------------------------------------------- a user's own

MINE = (PROFILES / "l4.toml").read_text().replace('id = "l4"', 'id = "mine"')
MINE = MINE.replace(MINE[MINE.index("aliases") : MINE.index("warnings")], 'aliases = ["my-card"]\n')


def _write(folder: Path, name: str, text: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def _copy(folder: Path, *, only: tuple[str, ...] | None = None) -> Path:
    for path in sorted(PROFILES.glob("*.toml")):
        if only is None or path.name in only:
            _write(folder, path.name, path.read_bytes())
    return folder


def test_a_users_profile_is_added(tmp_path: Path) -> None:
    folder = _write(tmp_path / "own", "mine.toml", MINE)

    assert load_gpu("My Card", folder).id == "mine"
    assert len(list_gpus(folder)) == len(list_gpus()) + 1
    with pytest.raises(UnknownName):
        load_gpu("my-card")


def test_a_users_profile_overrides_a_shipped_one_and_keeps_its_names(tmp_path: Path) -> None:
    text = MINE.replace('"mine"', '"rtx4090"').replace("torch_total_mib = 22563", "torch_total_mib = 20000")
    folder = _write(tmp_path / "own", "rtx4090.toml", text)

    assert load_gpu("4090", folder).memory_bytes == 20000 * MIB
    assert load_gpu("24gb", folder).represents == "rtx4090"
    assert len(list_gpus(folder)) == len(list_gpus())


def test_the_folder_in_the_users_configuration_counts_and_the_option_wins(tmp_path: Path) -> None:
    _write(user_dir(), "mine.toml", MINE)
    folder = _write(tmp_path / "own", "mine.toml", MINE.replace("memory_gb_per_s = 300", "memory_gb_per_s = 301"))

    assert load_gpu("mine").bandwidth_bytes_per_s == 300e9
    assert load_gpu("mine", folder).bandwidth_bytes_per_s == 301e9


def test_a_user_may_bring_classes_and_prices(tmp_path: Path) -> None:
    folder = _write(tmp_path, "mine.toml", MINE)
    _write(folder, "office.toml", 'id = "office"\nadvertised_gb = 24\nmembers = ["rtx3090", "mine"]\n')
    _write(folder, "prices.toml", _prices("low = 0.1\ntypical = 0.2", gpu="mine"))

    gpu = load_gpu("office", folder)
    assert gpu.represents == "mine"
    assert gpu.price is not None
    assert (gpu.price.low_usd, gpu.price.typical_usd, gpu.price.as_of) == (0.1, 0.2, "2026-11")


def _prices(offer: str, *, gpu: str = "l4", source: str = "us") -> str:
    return (
        f'as_of = "2026-11"\n[[source]]\nid = "us"\ndocument = "our bills"\n'
        f'[gpus.{gpu}]\n{offer}\nbasis = "bills"\nsources = ["{source}"]\n'
    )


BAD_PROFILES = {
    "unknown key": ("tdp_w = 72", 'colour = "red"\ntdp_w = 72', "power.colour: unknown key"),
    "missing section": ("[power]\ntdp_w = 72", "", "power: missing"),
    "text for a number": ("tdp_w = 72", 'tdp_w = "72"', "power.tdp_w: should be a number"),
    "truth for a number": ("tdp_w = 72", "tdp_w = true", "power.tdp_w: should be a valid number"),
    "number for text": ('capability = "8.9"', "capability = 8.9", "compute.capability: should be a valid string"),
    "fractional count": ("sm_count = 58", "sm_count = 58.5", "compute.sm_count: should be a valid integer"),
    "NaN": ("tdp_w = 72", "tdp_w = nan", "power.tdp_w: should be a finite number"),
    "infinity": ("tdp_w = 72", "tdp_w = inf", "power.tdp_w: should be a finite number"),
    "negative": ("tdp_w = 72", "tdp_w = -72", "power.tdp_w: should be greater than 0"),
    "zero": ("mib = 270", "mib = 0", "context.mib: should be greater than 0"),
    "absurd": ("tdp_w = 72", "tdp_w = 1e30", "power.tdp_w: should be less than"),
    "too many digits": ("tdp_w = 72", f"tdp_w = {'9' * 5000}", "too many digits"),
    "unknown dtype": ("bf16 = ", "bfloat16 = ", "compute.peak_tflops.bfloat16: should be 'fp32'"),
    "id of another": ('"mine"', '"other"', "id: 'other' must equal the file's name, 'mine'"),
    "alias of another": ("my-card", "4090", "aliases: '4090' already names 'rtx4090'"),
    "alias written otherwise": ("my-card", "rtx-40-90", "already names 'rtx4090'"),
    "alias in capitals": ("my-card", "My Card", "aliases.0: should match pattern"),
    "more than the driver": ("torch_total_mib = 22563", "torch_total_mib = 99999", "above memory.driver_total_mib"),
    "no source": ('sections = ["memory"]', 'sections = ["power"]', "no [[source]] covers memory"),
    "lanes alone": ("pcie_gen = 4\n", "", "link: pcie_gen and pcie_lanes come together"),
    "escape codes": ('name = "NVIDIA', 'name = "\\u001b[31mNVIDIA', "name: should match pattern"),
    "meaning of no alias": ("[memory]", '[meanings]\nnobody = "x"\n\n[memory]', "meanings.nobody is not one"),
    "machine without a source": ('sections = ["machine"]', 'sections = ["power"]', "no [[source]] covers machine"),
    "adapters alone": ("adapters = 1\n", "", "machine: adapters and adapter_gbps come together"),
    "a fabric within": ("gpus = 8\n", "gpus = 8\nnvlink_gpus = 8\n", "machine: nvlink_gpus is only for a fabric"),
    "two faults": (
        "tdp_w = 72",
        "tdp_w = -1\nwatts = 72",
        "power.tdp_w: should be greater than 0; power.watts: unknown",
    ),
}


@pytest.mark.parametrize("fault", BAD_PROFILES)
def test_a_broken_profile_is_named_with_its_key(tmp_path: Path, fault: str) -> None:
    before, after, message = BAD_PROFILES[fault]
    assert before in MINE
    _refused(_write(tmp_path, "mine.toml", MINE.replace(before, after)), "mine.toml", message)


BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "not TOML": ("id = [", "not TOML"),
    "binary": (b"\x7fELF\xff\xfe\x00", "not a text file"),
    "zeros": (b"\x00" * 100, "not TOML"),
    "deep": ("a = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    "huge": ("# " + "x" * 2**18, "larger than 256 KiB"),
    "empty": ("", "id: missing; name: missing; vendor: missing"),
    "class of unknown cards": ('id = "mine"\nadvertised_gb = 24\nmembers = ["nope"]', "no profile has the id 'nope'"),
    "class of none": ('id = "mine"\nadvertised_gb = 24\nmembers = []', "members: should have at least 1 item"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, fault: str) -> None:
    content, message = BAD_FILES[fault]
    _refused(_write(tmp_path, "mine.toml", content), "mine.toml", message)


BAD_PRICES = {
    "out of order": (_prices("low = 2\ntypical = 1"), "low <= typical <= hyperscaler"),
    "one number": (_prices("typical = 1"), "a price is a range"),
    "negative": (_prices("low = -1\ntypical = 1"), "gpus.l4.low: should be greater than 0"),
    "no such card": (_prices("low = 1\ntypical = 2", gpu="l5"), "no profile has the id 'l5'"),
    "no such source": (_prices("low = 1\ntypical = 2", source="them"), "names them, which no [[source]] describes"),
    "no date": (_prices("low = 1\ntypical = 2").replace("2026-11", "soon"), "as_of: should match"),
}


@pytest.mark.parametrize("fault", BAD_PRICES)
def test_broken_prices_are_refused(tmp_path: Path, fault: str) -> None:
    content, message = BAD_PRICES[fault]
    _refused(_write(tmp_path, "prices.toml", content), "prices.toml", message)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    _refused(tmp_path, "folder.toml", "not a file")
    (tmp_path / "folder.toml").rmdir()
    (tmp_path / "dangling.toml").symlink_to(tmp_path / "nowhere")
    _refused(tmp_path, "dangling.toml", "not a file")


def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    folder = _write(tmp_path, "mine.toml", MINE)
    load_gpu("4090")
    monkeypatch.setattr(Path, "read_bytes", deny)
    _refused(folder, "mine.toml", "cannot be read: Permission denied")


@pytest.mark.parametrize("name", ["missing", "file", "empty", "x" * 5000, "nul\x00byte"])
def test_the_option_wants_a_folder_with_profiles(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()

    with pytest.raises(UsageError, match="is not a folder that holds"):
        load_gpu("4090", tmp_path / name)


def _refused(folder: Path, file: str, message: str) -> None:
    with pytest.raises(PlannerError) as caught:
        load_gpu("4090", folder)

    text = str(caught.value)
    assert isinstance(caught.value, BrokenInput)
    assert text.startswith(str(folder / file))
    assert message in text
    assert "\n" not in text
