"""Which rules hold for which versions: at every boundary one version before and one after the source changed."""

import tomllib
from dataclasses import MISSING, fields
from importlib import resources
from typing import Any

import pytest

from planner.errors import UnknownName, UnsupportedScenario, UsageError
from planner.spec import Behaviour
from planner.stacks import STACKS, describe_stack, load_stack
from planner.stacks.rules import CHOSEN as DEFAULTS
from planner.stacks.rules import _compare
from planner.stacks.values import choices

FILES = ("libraries", *STACKS)


def document(name: str) -> dict[str, Any]:
    """One rules file."""
    return tomllib.loads((resources.files("planner") / "stacks" / f"{name}.toml").read_text(encoding="utf-8"))


def oldest(stack: str, package: str) -> str:
    """The oldest version of a package that a stack may name."""
    told = {**document("libraries")["oldest"], **document(stack).get("oldest", {})}
    return str(told.get(package, "0.0.1"))


RULES = [(name, index, rule) for name in FILES for index, rule in enumerate(document(name)["rule"])]


def value_of(stack: str, name: str) -> object:
    """One behaviour or default of a stack."""
    found = load_stack(stack)
    return getattr(found, name) if name in DEFAULTS else getattr(found.behaviour, name)


# ---------------------------------------------------------------- boundaries

BOTH_WIDE = {"lora": "fp32", "qlora": "fp32"}
LORA_NARROW = {"lora": "bf16", "qlora": "fp32"}
QLORA_NARROW = {"lora": "fp32", "qlora": "bf16"}
LIGER_AND_ADAPTERS = ("norm", "rope", "swiglu", "lora", "lora_mlp")

BOUNDARIES = [
    # transformers: how logits become fp32
    ("hf,transformers={}", "4.30.2", "4.31.0", "logits_upcast", "none", "in_place"),
    ("hf,transformers={}", "4.45.2", "4.46.0", "logits_upcast", "in_place", "copy"),
    ("hf,transformers={}", "4.48.3", "4.49.0", "logits_shift_copy", True, False),
    # transformers: experts, shared heads, checkpoints, optimizer
    ("hf,transformers={}", "4.57.6", "5.0.0", "fused_experts", False, True),
    ("hf,transformers={}", "4.53.3", "4.54.0", "repeats_kv", True, False),
    ("hf,transformers={}", "4.57.6", "5.0.0", "reentrant_checkpoint", True, False),
    ("hf,transformers={}", "4.53.3", "4.54.1", "adamw", "foreach", "fused"),
    ("hf,torch={}", "2.7.1", "2.8.0", "adamw", "foreach", "fused"),
    ("trl,transformers={}", "4.53.3", "4.54.1", "adamw", "foreach", "fused"),
    # transformers' own AdamW, a loop over parameters, was the Trainer's default before 4.32 (adamw_hf)
    ("hf,transformers={}", "4.31.0", "4.32.0", "adamw", "loop", "foreach"),
    # torch: foreach by default since 2.0
    ("plain,torch={}", "1.13.1", "2.0.0", "adamw", "loop", "foreach"),
    # PEFT widens 16-bit adapters of a 16-bit base since 0.12 (autocast_adapter_dtype)
    ("hf,peft={}", "0.11.1", "0.12.0", "adapter_dtype", LORA_NARROW, BOTH_WIDE),
    # trl: preparation of a quantised base, and dtype of its adapters
    ("trl,trl={}", "0.25.1", "0.26.0", "kbit_upcast", "norms", "none"),
    ("trl,trl={}", "0.25.1", "0.26.0", "adapter_dtype", BOTH_WIDE, QLORA_NARROW),
    ("trl,trl={}", "0.18.2", "0.19.0", "autocast", "none", "bf16"),
    # trl: the loss
    ("trl,trl={}", "1.6.0", "1.7.0", "loss", "full", "chunked"),
    ("trl,trl={}", "1.14.2", "1.15.0", "loss", "chunked", "fused"),
    ("trl,trl={}", "1.12.0", "1.13.0", "chunks_upcast_head", True, False),
    # bitsandbytes hung the input of every 4-bit product on its node
    ("hf,bitsandbytes={}", "0.43.1", "0.43.2", "keeps_4bit_input", True, False),
    # accelerate's no_sync called the model's own method, which modules of FSDP2 do not have
    ("hf,accelerate={}", "1.10.1", "1.11.0", "no_sync", "not_fsdp2", "all"),
    # axolotl puts its kernels under adapters by itself
    ("axolotl,axolotl={}", "0.8.1", "0.9.2", "kernels", {}, {"lora": "fused", "qlora": "fused"}),
    ("axolotl,axolotl={}", "0.15.0", "0.16.0", "fuses_dropout", False, True),
    ("axolotl,axolotl={}", "0.17.0", "0.18.0", "offload_for_recompute", False, True),
    # unsloth: the loss, and the buffer for dequantised matrices
    ("unsloth,unsloth={}", "2024.10.7", "2025.1.8", "loss", "full", "fused"),
    ("unsloth,unsloth={}", "2025.6.2", "2025.9.1", "fused_loss", "cut", "unsloth"),
    ("unsloth,unsloth={}", "2025.1.8", "2025.6.2", "keeps_dequantized", False, True),
    # torchtune's configs took the chunked loss with 0.3, fused AdamW with 0.3.1
    ("torchtune,torchtune={}", "0.2.1", "0.3.0", "loss", "full", "chunked"),
    ("torchtune,torchtune={}", "0.3.0", "0.3.1", "adamw", "foreach", "fused"),
    ("llamafactory,torch={}", "2.7.1", "2.8.0", "adamw", "foreach", "fused"),
    # trl sets use_reentrant itself, whatever transformers does
    ("trl,transformers=4.57.6,trl={}", "0.26.2", "0.27.0", "reentrant_checkpoint", True, False),
]  # fmt: skip


@pytest.mark.parametrize(("stack", "before", "after", "name", "old", "new"), BOUNDARIES)
def test_a_boundary_is_where_the_source_changed(
    stack: str, before: str, after: str, name: str, old: object, new: object
) -> None:
    assert value_of(stack.format(before), name) == old
    assert value_of(stack.format(after), name) == new


def test_flash_classes_repeated_heads_until_4_48() -> None:
    # transformers 4.47.1: Mistral, Mixtral and Qwen2 called repeat_kv before FlashAttention; Llama and Gemma never did
    old, new = (value_of(f"hf,transformers={version}", "flash_repeats_kv") for version in ("4.47.1", "4.48.0"))

    assert isinstance(old, tuple)
    assert {"mistral", "mixtral", "qwen2"} <= set(old)
    assert {"llama", "gemma", "gemma2"}.isdisjoint(old)
    assert new == ()


NEWEST = [
    ("plain", {"autocast": "none", "loss": "full", "adamw": "foreach", "kbit_upcast": "none", "holds_logits": True}),
    ("plain", {"fused_experts": True, "logits_upcast": "copy"}),
    ("hf", {"autocast": "bf16", "loss": "full", "adamw": "fused", "kbit_upcast": "all", "holds_logits": False}),
    ("hf", {"adapter_dtype": BOTH_WIDE, "reentrant_checkpoint": False}),
    ("trl", {"autocast": "bf16", "loss": "fused", "adamw": "fused", "kbit_upcast": "none", "holds_logits": False}),
    ("trl", {"adapter_dtype": QLORA_NARROW, "reentrant_checkpoint": False, "fused_loss": "trl"}),
    ("plain", {"no_sync": "none"}),
    ("axolotl", {"autocast": "bf16", "loss": "full", "adamw": "fused", "kbit_upcast": "experts", "fused_loss": "cut"}),
    ("axolotl", {"adapter_dtype": BOTH_WIDE, "reentrant_checkpoint": True, "offload": ()}),
    ("axolotl,liger=0.8,liger_loss=0.8", {"fused_loss": "liger", "fused_parts": LIGER_AND_ADAPTERS}),
    ("llamafactory", {"autocast": "bf16", "loss": "full", "adamw": "fused", "kbit_upcast": "none"}),
    ("llamafactory", {"adapter_dtype": BOTH_WIDE, "weights_dtype": {"full": "fp32"}, "reentrant_checkpoint": True}),
    ("unsloth", {"autocast": "bf16", "loss": "fused", "adamw": "fused", "kbit_upcast": "none"}),
    ("unsloth", {"adapter_dtype": BOTH_WIDE, "reentrant_checkpoint": True, "offload": ("activations",)}),
    ("torchtune", {"autocast": "none", "loss": "chunked", "adamw": "fused", "nf4": "torchao", "no_sync": "none"}),
    ("torchtune", {"adapter_dtype": {"lora": "bf16", "qlora": "bf16"}, "repeats_kv": True}),
    ("trl", {"offloads_activations": "saved_tensors", "offloads_from": 0}),
    ("hf", {"offloads_activations": "none"}),
    ("llamafactory", {"offloads_activations": "checkpoints", "offloads_from": 0}),
    ("unsloth", {"offloads_activations": "checkpoints", "offloads_from": 512}),
]


@pytest.mark.parametrize(("stack", "expected"), NEWEST)
def test_what_a_trainer_does_today(stack: str, expected: dict[str, object]) -> None:
    assert {name: value_of(stack, name) for name in expected} == expected


# ---------------------------------------------------------------- the files


@pytest.mark.parametrize(
    ("file", "index", "rule"), RULES, ids=lambda value: str(value) if not isinstance(value, dict) else ""
)
def test_every_rule_says_what_it_sets_and_who_says_so(file: str, index: int, rule: dict[str, Any]) -> None:
    known = {field.name for field in fields(Behaviour)} | set(DEFAULTS)

    assert rule.keys() <= {"when", "set", "source"}
    assert rule["set"]
    assert rule["set"].keys() <= known
    assert len(rule["source"]) > 20


@pytest.mark.parametrize(
    ("file", "index", "rule"), RULES, ids=lambda value: str(value) if not isinstance(value, dict) else ""
)
def test_every_condition_names_a_package_and_can_hold_or_fail(file: str, index: int, rule: dict[str, Any]) -> None:
    own = document(file)
    libraries = document("libraries")
    newest = {**libraries["newest"], **libraries["optional"], **own.get("newest", {}), **own.get("optional", {})}

    for package, condition in rule.get("when", {}).items():
        assert package in newest
        assert condition.lstrip("<>=")[0].isdigit()
        assert condition.startswith(("<", ">=", "=="))


@pytest.mark.parametrize("file", FILES)
def test_what_is_offered_is_what_a_setting_can_be(file: str) -> None:
    for rule in document(file).get("offer", ()):
        assert rule.keys() <= {"when", "set", "source"}
        assert len(rule["source"]) > 20
        for name, offered in rule["set"].items():
            assert set(offered) <= set(choices(name)), name


@pytest.mark.parametrize("stack", STACKS)
def test_one_card_and_several_have_an_engine_of_their_own(stack: str) -> None:
    first, second, *_ = load_stack(stack).offers["sharding"]

    assert first == "none"
    assert second == {"unsloth": "ddp"}.get(stack, "fsdp")


@pytest.mark.parametrize("stack", STACKS)
def test_every_trainer_sets_every_behaviour(stack: str) -> None:
    rules = [*document("libraries")["rule"], *document(stack)["rule"]]
    always = {name for rule in rules if "when" not in rule for name in rule["set"]}
    needed = {field.name for field in fields(Behaviour) if field.default is MISSING} - {"name", "versions"}

    assert needed | set(DEFAULTS) <= always


def test_no_rule_is_dead() -> None:
    # a conditional rule that sets what the rules before it set already would be noise
    for stack in STACKS:
        for rule in document(stack)["rule"]:
            for package, condition in rule.get("when", {}).items():
                bound = condition.split(",")[0].lstrip("<>=")
                first = oldest(stack, package)
                inside, outside = (first, bound) if condition.startswith("<") else (bound, first)
                assert describe_stack(f"{stack},{package}={inside}") != describe_stack(f"{stack},{package}={outside}")


def test_the_description_lists_the_rules_in_order() -> None:
    lines = describe_stack("trl,trl=1.6")
    losses = [told for told, _ in lines if told.startswith("loss = ")]

    assert losses == ["loss = fused, fused_loss = trl", "loss = chunked", "loss = full"]
    assert all(source for _, source in lines)


# ---------------------------------------------------------------- names and versions


def test_packages_that_are_not_named_are_the_newest() -> None:
    versions = load_stack("hf,transformers=4.48.1,torch=2.4").behaviour.versions

    assert versions["transformers"] == "4.48.1"
    assert versions["torch"] == "2.4"
    assert versions["peft"] == document("libraries")["newest"]["peft"]


def test_spaces_and_capitals_do_not_matter() -> None:
    assert load_stack(" TRL , trl = 1.7 ").loss == "chunked"


SPELLINGS = [
    ("4.46", "copy"),  # as 4.46.0
    ("4.46.0.dev0", "copy"),
    ("5", "copy"),
    ("4.45.2.1", "in_place"),
]


@pytest.mark.parametrize(("version", "expected"), SPELLINGS)
def test_versions_compare_as_numbers(version: str, expected: str) -> None:
    assert value_of(f"hf,transformers={version}", "logits_upcast") == expected


def test_five_is_less_than_thirty() -> None:
    with pytest.raises(UnsupportedScenario, match=r"transformers=4\.5 is older than 4\.30"):
        load_stack("hf,transformers=4.5")


BROKEN = [
    ("trl,transformers", UsageError, "not PACKAGE=VERSION"),
    ("trl,transformers=", UsageError, "not PACKAGE=VERSION"),
    ("trl,transformers=new", UsageError, "not PACKAGE=VERSION"),
    ("trl,transformers=-1", UsageError, "not PACKAGE=VERSION"),
    ("trl,transformers=5.\u0663", UsageError, "not PACKAGE=VERSION"),
    ("trl,transformers=4.48,transformers=5", UsageError, "names transformers twice: 4.48 and 5"),
    ("trl,transformer=5.0", UnknownName, "did you mean transformers"),
    ("hf,trl=1.0", UnknownName, "stack package 'trl'"),
    ("tlr", UnknownName, "did you mean trl"),
    ("", UnknownName, "unknown stack ''"),
    ("axolotl,axolot=0.19", UnknownName, "did you mean axolotl"),
    ("torchtune,trl=1.0", UnknownName, "stack package 'trl'"),
]


@pytest.mark.parametrize(("text", "error", "message"), BROKEN)
def test_what_is_not_a_stack_is_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_stack(text)


def test_behaviours_differ_when_their_versions_do() -> None:
    # they are keys of caches
    old, new = (load_stack(f"hf,transformers={version}").behaviour for version in ("4.48.1", "5.23.0"))

    assert old != new
    assert load_stack("hf,transformers=4.48.1").behaviour == old
    assert len({old, new, load_stack("trl").behaviour}) == 3


def test_fsdps_version_stands_beside_packages() -> None:
    assert load_stack("trl,fsdp=1").behaviour.fsdp_version == 1
    assert load_stack("trl,transformers=4.57,fsdp=2").behaviour.fsdp_version == 2
    assert "fsdp" not in load_stack("trl,fsdp=1").behaviour.versions, "it is no package"
    with pytest.raises(UsageError, match="write fsdp=1 or fsdp=2"):
        load_stack("trl,fsdp=3")


# ---------------------------------------------------------------- versions from before the rules

OLDEST = [(name, package, first) for name in FILES for package, first in document(name).get("oldest", {}).items()]


@pytest.mark.parametrize(("name", "package", "first"), OLDEST)
def test_a_version_from_before_what_is_described_is_refused(name: str, package: str, first: str) -> None:
    stack = "trl" if name == "libraries" else name

    assert load_stack(f"{stack},{package}={first}").behaviour.versions[package] == first
    with pytest.raises(UnsupportedScenario, match=rf"{package}=0\.0\.1 is older than {first}, the oldest"):
        load_stack(f"{stack},{package}=0.0.1")


def test_no_rule_begins_before_the_oldest_version() -> None:
    """A rule for nothing but versions that are refused would never hold."""
    first = {package: version for _, package, version in OLDEST}
    bounds = [
        (package, bound)
        for _, _, rule in RULES
        for package, condition in rule.get("when", {}).items()
        for bound in condition.split(",")
        if bound.startswith("<") and package in first
    ]

    assert bounds
    for package, bound in bounds:
        assert _compare(first[package], "<", bound.strip("<=")), (package, bound)
