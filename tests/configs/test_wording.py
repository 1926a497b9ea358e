"""Complaints about a file's values name the file and its own keys; what the command said is told by its option."""

from pathlib import Path

import pytest

from planner.cli import main
from planner.configs.understood import Reading, Understood
from planner.configs.wording import by_keys

SFT = {
    "model_name_or_path": "meta-llama/Llama-3.1-8B",
    "use_peft": "true",
    "lora_r": "16",
    "per_device_train_batch_size": "2",
    "gradient_accumulation_steps": "8",
    "max_length": "2048",
}


def complaint(
    folder: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, str], *words: str, beside: str = ""
) -> str:
    """What ``plan check`` says of a file with one setting changed, and of a launcher's file beside it."""
    text = "".join(f"{key}: {value}\n" for key, value in {**SFT, **changed}.items())
    (folder / "sft.yaml").write_text(text)
    files = [str(folder / "sft.yaml")]
    if beside:
        (folder / "fsdp.yaml").write_text(beside)
        files.append(str(folder / "fsdp.yaml"))
    assert main(["check", *files, *words]) in (2, 3)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("per_device_train_batch_size", "-4", "per_device_train_batch_size -4 is outside 1 to 65536"),
        ("gradient_accumulation_steps", "0", "gradient_accumulation_steps 0 is outside"),
        ("max_length", "999999999", "max_length 999999999 is outside"),
        ("lora_r", "0", "lora_r 0 is outside"),
        ("lora_dropout", "3", "lora_dropout 3 is outside 0 to 0.99"),
        ("lora_target_modules", "[]", "lora_target_modules is empty: name modules"),
        ("num_train_epochs", "99999", "num_train_epochs 99999 is outside"),
        ("num_processes", "12", "num_processes 12: machines of t4 hold 8 cards"),
        ("num_processes", "5000", "num_processes 5000 is more than"),
        ("attn_implementation", "flash_attention_2", "attn_implementation 'flash_attention_2': t4 cannot run"),
    ],
)
def test_a_files_value_is_told_by_its_key(
    key: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"error: sft.yaml: {message}" in complaint(tmp_path, capsys, {key: value}, "--gpu", "t4")


def test_without_a_card_it_is_told_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "error: sft.yaml: lora_r 0 is outside" in complaint(tmp_path, capsys, {"lora_r": "0"})


def test_the_commands_own_value_is_told_by_its_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = complaint(tmp_path, capsys, {}, "--gpu", "t4", "--lora-rank", "0")

    assert told == "error: --lora-rank 0 is outside 1 to 65536\n"


def test_a_key_of_another_file_is_told_with_that_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = (
        "distributed_type: FSDP\nnum_processes: 2\nfsdp_config:\n  fsdp_version: 1\n  fsdp_offload_params: true\n"
        "  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP\n"
    )
    told = complaint(tmp_path, capsys, {}, "--gpu", "24gb", beside=launcher)

    assert told.startswith("error: fsdp.yaml: fsdp_config.fsdp_offload_params True under FSDP of version 1")
    assert "use version 2 (--stack trl,fsdp=2, in a trainer's file fsdp_version: 2)" in told


def test_the_version_of_fsdp_is_not_to_blame_for_a_stack_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = (
        "distributed_type: FSDP\nnum_processes: 2\nfsdp_config:\n  fsdp_version: 2\n"
        "  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP\n"
    )
    words = ("--gpu", "24gb", "--objective", "dpo", "--stack", "trl,trl=0.14")

    told = complaint(tmp_path, capsys, {}, *words, beside=launcher)

    assert told.startswith("error: --objective dpo is not planned for stack trl with trl 0.14")


def understood(*readings: Reading, stack: str = "trl", **settings: str) -> Understood:
    return Understood(format="trl", stack=stack, settings=settings, readings=readings)


KERNELS = Reading(key="use_liger_kernel", value=True, fate="used", sets="kernels", file="sft.yaml")
SHARDING = Reading(key="distributed_type", value="FSDP", fate="used", sets="sharding", file="fsdp.yaml")


def test_two_files_in_one_message() -> None:
    found = understood(KERNELS, SHARDING, kernels="fused", sharding="fsdp")

    assert by_keys("--kernels fused under --sharding fsdp: no; use --kernels eager", found) == (
        "sft.yaml: use_liger_kernel True under distributed_type 'FSDP' (fsdp.yaml): no; use --kernels eager"
    )


def test_an_option_that_no_key_said_stays() -> None:
    found = understood(KERNELS, kernels="fused")

    assert by_keys("--loss full under --objective dpo", found) == "--loss full under --objective dpo"
    assert by_keys("--kernels fused is odd", found, {"kernels"}) == "--kernels fused is odd"


def test_what_a_file_means_without_a_key_is_told_with_the_file() -> None:
    found = understood(KERNELS, kernels="fused", objective="dpo")

    assert by_keys("--objective dpo is not planned", found) == "sft.yaml: --objective dpo is not planned"


def test_another_trainer_is_no_way_out_for_this_ones_file() -> None:
    found = understood(KERNELS, stack="unsloth", kernels="fused")

    assert by_keys("--objective dpo is not planned: use --stack trl", found).endswith(
        ": --stack trl plans it as TRL would run it"
    )


def test_a_key_that_a_message_names_by_itself_is_told_with_its_file() -> None:
    found = understood(KERNELS, kernels="fused")

    assert by_keys("nobody knows use_liger_kernel True", found) == "sft.yaml: nobody knows use_liger_kernel True"
    assert by_keys("nobody knows kernels", found) == "nobody knows kernels"
