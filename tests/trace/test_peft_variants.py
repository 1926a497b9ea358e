"""LoRA's many switches, prompts, dtypes, and what is refused: traced, and held against PEFT's own real modules."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft: Any = pytest.importorskip("peft", minversion="0.21")

from planner.allocator.events import peaks  # noqa: E402
from planner.build.job import assemble  # noqa: E402
from planner.catalog import load_model  # noqa: E402
from planner.errors import PlannerError, UnsupportedScenario, UsageError  # noqa: E402
from planner.trace.fake import fake_mode, fake_place  # noqa: E402
from planner.trace.run import Run, record  # noqa: E402
from planner.trace.semantics import cpu_semantics  # noqa: E402
from tests.trace.tuners import QV, B, S, adapted, fields_of, real_run, scenario  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


def trace(fields: dict[str, Any], **settings: Any) -> Run:
    chosen = scenario(**settings)
    return record(chosen, cpu_semantics(chosen), adapter=fields)


def lora(**more: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": QV, **more}


def trained(found: Run) -> int:
    return sum(part.trainable for part in found.parameters.values())


def top(found: Run) -> int:
    """The highest point of the second step."""
    return max(instant.memory.total for instant in peaks(found.trace) if instant.step == 1)


def standing(found: Run, owner: str) -> int:
    """Bytes of an owner before the first step."""
    return int(getattr(peaks(found.trace)[0].memory, owner))


VARIANTS: dict[str, dict[str, Any]] = {
    "rank-stabilised": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dropout": {"lora_dropout": 0.1},
    "bias": {"lora_bias": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa by iteration": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "some layers": {"layers_to_transform": [1]},
    "rank pattern": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 16}},
    "saved modules": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "tokens": {"trainable_token_indices": [1, 2, 3]},
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "replicated": {"layer_replication": [[0, 2], [1, 2]]},
    "parameters": {"target_modules": [], "target_parameters": ["q_proj.weight"]},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_of_lora_is_traced_as_it_trains(name: str) -> None:
    fields = lora(**VARIANTS[name])
    real = real_run(fields)

    found = trace(fields)

    assert trained(found) == real.trainable
    tolerance = 0.1 if name == "dropout" else 0.02  # a mask is a float for each entry on the CPU; fused when traced
    assert top(found) == pytest.approx(real.peak, rel=tolerance)


def test_activated_lora_is_traced_as_if_every_sequence_invokes_it() -> None:
    fields = lora(alora_invocation_tokens=[5, 6])
    real = real_run(fields)  # on random ids, few or none of which invoke it

    found = trace(fields)

    assert trained(found) == real.trainable
    assert top(found) >= 0.98 * real.peak


@pytest.mark.parametrize("init", ["eva", "corda", "loftq", "lora_ga"])
def test_what_needs_data_has_the_shapes_of_what_does_not(init: str) -> None:
    found = trace(lora(init_lora_weights=init, corda_config={}, eva_config={}, loftq_config={}))

    assert trained(found) == adapted(lora()).get_nb_trainable_parameters()[0]
    assert top(found) == top(trace(lora()))


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"])
def test_virtual_tokens_make_sequences_longer(kind: str, tmp_path: Path) -> None:
    fields = fields_of(kind, tmp_path)

    shapes = sequence_lengths(fields)

    assert shapes == {S + 8}


def test_a_prefix_is_keys_and_values_of_every_layer(tmp_path: Path) -> None:
    short, long = (trace(fields_of("PREFIX_TUNING", tmp_path, num_virtual_tokens=count)) for count in (8, 16))

    layers, kv = 2, 32
    assert sequence_lengths(fields_of("PREFIX_TUNING", tmp_path)) == {S}
    assert trained(long) - trained(short) == 8 * layers * 2 * kv
    probabilities = layers * B * 4 * S * 8 * 4  # of eager attention over eight more keys, fp32
    assert top(long) - top(short) > probabilities


def sequence_lengths(fields: dict[str, Any]) -> set[int]:
    """Lengths that the real decoder layers see."""
    model, seen = adapted(fields), set()
    for layer in model.get_base_model().model.layers:
        layer.register_forward_pre_hook(lambda _module, arguments: seen.add(arguments[0].shape[1]))
    ids = torch.zeros((B, S), dtype=torch.int64)
    tasks = {"task_ids": ids[:, 0]} if fields["peft_type"] == "MULTITASK_PROMPT_TUNING" else {}
    model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids), **tasks)
    return seen


@pytest.mark.parametrize(("adapter_dtype", "size"), [("fp32", 4), ("bf16", 2)])
def test_adapters_have_the_dtype_that_peft_gives_them(adapter_dtype: str, size: int) -> None:
    found = trace(lora(), weights_dtype="bf16", adapter_dtype=adapter_dtype)

    assert standing(found, "adapters") == size * trained(found)


def test_saved_modules_are_adapters_and_the_originals_are_weights() -> None:
    plain, saved = trace(lora()), trace(lora(modules_to_save=["lm_head"]))

    assert standing(saved, "weights") == standing(plain, "weights")
    assert standing(saved, "adapters") - standing(plain, "adapters") == 4 * (trained(saved) - trained(plain))


@pytest.mark.parametrize("kind", ["LORA", "IA3", "OFT", "ROAD", "PROMPT_TUNING", "VERA", "TRAINABLE_TOKENS"])
def test_quantised_bases_with_checkpoints_take_them(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    found = trace(
        fields_of(kind, tmp_path), method="qlora", weights_dtype="bf16", autocast="bf16", gradient_checkpointing=True
    )

    assert trained(found) > 0
    assert sum(part.quantized for part in found.parameters.values()) > 0


QUANTISED_BADLY = ["ADAMSS", "DEFT", "DELORA", "FROD", "GLORA", "HIRA", "HRA", "LOHA", "LOKR", "OSF", "PEANUT", "PSOFT"]
"""Kinds whose code takes the packed bytes of a 4-bit base for its matrix, or refuses it. peft 0.21."""


@pytest.mark.parametrize("kind", QUANTISED_BADLY)
def test_what_cannot_read_a_packed_base_is_refused(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(UnsupportedScenario, match=kind):
        trace(fields_of(kind, tmp_path), method="qlora", weights_dtype="bf16", autocast="bf16")


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "CARTRIDGE", "POLY"])
def test_some_do_not_go_with_checkpoints(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedScenario, match="--no-gradient-checkpointing"):
        trace(fields_of(kind, tmp_path), gradient_checkpointing=True)


PUBLISHED = [("full", None, 3_212_749_824), ("lora", lora(r=32), 9_175_040)]
"""Llama-3.2-3B in huggingface/peft, method_comparison/MetaMathQA/results at 51c2ff666: `trainable_params`."""


@pytest.mark.parametrize(("method", "fields", "count"), PUBLISHED, ids=["full", "lora"])
def test_published_counts_are_met(method: str, fields: dict[str, Any] | None, count: int) -> None:
    chosen = replace(scenario(method=method, weights_dtype="bf16"), model=load_model("llama-3.2-3b").model)

    job = assemble(chosen, fake_place(fake_mode()), attention="sdpa", adapter=fields)

    assert sum(parameter.numel() for parameter in job.model.parameters() if parameter.requires_grad) == count


REFUSED: list[tuple[dict[str, Any], type[PlannerError], str]] = [
    (lora(lora_alhpa=3), UsageError, "did you mean lora_alpha"),
    (lora(target_modules=["nothing"]), UnsupportedScenario, "PEFT cannot put LORA on tiny: .*nothing"),
    (lora(target_modules="(("), UnsupportedScenario, "PEFT cannot put LORA on tiny"),
    (lora(r=0), UnsupportedScenario, "positive integer"),
    (lora(r="many"), UnsupportedScenario, "PEFT cannot put LORA on tiny"),
    (lora(r=10**30), UnsupportedScenario, "PEFT cannot put LORA on tiny"),
    (lora(init_lora_weights="whatever"), UnsupportedScenario, "whatever"),
    ({"peft_type": "PROMPT_TUNING"}, UnsupportedScenario, "PEFT cannot put PROMPT_TUNING on tiny"),
    ({"peft_type": "C3A", "target_modules": QV, "block_size": 48}, UnsupportedScenario, "48"),
    ({"peft_type": "XLORA", "hidden_size": 64, "adapters": {"0": "some/model"}}, PlannerError, "some/model"),
    ({"peft_type": "NEXT_YEARS"}, UnsupportedScenario, "the installed peft has no 'NEXT_YEARS'"),
]


@pytest.mark.parametrize(("fields", "error", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_peft_does_not_take_is_one_line(fields: dict[str, Any], error: type[PlannerError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        trace(fields)

    assert "\n" not in str(caught.value)
