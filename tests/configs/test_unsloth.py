"""Unsloth's scripts and Studio's settings: parsed and never run, every key has a fate, every export comes back."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.configs import unsloth
from planner.configs.document import parse_document
from planner.configs.exporting import differences, export, read_back
from planner.configs.formats import format_of
from planner.configs.script import Expression, script_calls
from planner.configs.understood import Understood
from planner.errors import BrokenInput, UnsupportedScenario
from planner.recommend.request import Request
from planner.spec import Job
from tests.configs.returned import leave, peak, request

NAMES = (Path(__file__).parent / "names" / "unsloth.txt").read_text(encoding="utf-8").split()
"""unsloth 2026.10.9: arguments of from_pretrained and get_peft_model, and keys of Studio (unsloth_cli/config.py)."""

LOAD = 'model_name="unsloth/Meta-Llama-3.1-8B-bnb-4bit"'
CONFIG = "per_device_train_batch_size=2"


def script(load: str = "", peft: str | None = "", config: str = CONFIG, before: str = "", after: str = "") -> str:
    """A script as Unsloth's notebooks have it."""
    adapters = [] if peft is None else [f"model = FastLanguageModel.get_peft_model(model, {peft})"]
    lines = [
        before,
        f"model, tokenizer = FastLanguageModel.from_pretrained({LOAD}, {load})",
        *adapters,
        f"trainer = SFTTrainer(model=model, tokenizer=tokenizer, args=SFTConfig({config}))",
        "trainer.train()",
        after,
    ]
    return "\n".join(lines) + "\n"


def read(text: str) -> Understood:
    return unsloth.read(parse_document(text, "train.py"))


def studio(**keys: Any) -> Understood:
    return unsloth.read(parse_document(yaml.safe_dump({"model": "unsloth/Qwen2.5-0.5B", **keys}), "studio.yaml"))


def unmodelled(found: Understood) -> set[str]:
    return {one.key for one in found.of("unmodelled")}


# ---------------------------------------------------------------- a script as data


def test_literals_and_names_that_are_bound_to_them_once() -> None:
    text = (
        "rank = 16\nnames = ['q_proj', 'v_proj']\nsize: int = -3\ntwice = 1\ntwice = 2\n"
        "def f(inner):\n    other = 4\n"
        "FastModel.get_peft_model(m, r=rank, target_modules=names, a=size, b=twice, c=inner, d=other, e=f'{rank}',\n"
        "    g=torch.bfloat16, h={'x': (1, 2)}, **more, **{'i': None})"
    )
    found = script_calls(text, "train.py")["get_peft_model"]

    assert found == {
        "model": "m", "r": 16, "target_modules": ["q_proj", "v_proj"], "a": -3, "b": "twice", "c": "inner",
        "d": "other", "e": "f'{rank}'", "g": "torch.bfloat16", "h": {"x": [1, 2]}, "**": "more", "i": None,
    }  # fmt: skip
    assert {name for name, value in found.items() if isinstance(value, Expression)} == {
        "model",
        "b",
        "c",
        "d",
        "e",
        "**",
    }


@pytest.mark.parametrize(
    "rebound",
    [
        "rank += 1",
        "for rank in range(3): pass",
        "import rank",
        "from x import y as rank",
        "with open('x') as rank: pass",
        "def f(rank): pass",
        "def rank(): pass",
        "[rank for rank in ()]",
        "(rank := 2)",
        "try:\n    pass\nexcept E as rank:\n    pass",
        "def f():\n    global rank\n    rank = 3",
        "match x:\n    case [*rank]: pass",
        "match x:\n    case {'a': 1, **rank}: pass",
        "del rank",
    ],
)
def test_a_name_that_is_bound_again_stands_for_nothing(rebound: str) -> None:
    found = script_calls(f"rank = 16\n{rebound}\nFastModel.get_peft_model(m, r=rank)", "train.py")
    assert isinstance(found["get_peft_model"]["r"], Expression)


def test_dead_branches_are_passed_over_and_second_calls_are_told() -> None:
    again = "FastLanguageModel.from_pretrained(model_name='lora_model')"

    assert not unmodelled(read(script(after=f"if False:\n    {again}")))
    assert not unmodelled(read(script(after=f"if True:\n    pass\nelse:\n    {again}")))
    assert unmodelled(read(script(after=again))) == {"from_pretrained 2"}


def test_nothing_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    text = script(before=f"open({str(mark)!r}, 'w')", load=f"token=open({str(mark)!r}, 'w').name")

    assert read(text).model
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(:", "is no Python: line 1"),
        ("x = " + "(" * 500 + ")" * 500, "no Python|nested too deep"),
        ("-" * 100_000 + "1", "nested too deep"),
        ("x = " + "1" * 5000, "no Python"),
        ("a" + ".b" * 50_000, "nested too deep"),
        ("a0 = [1, 2]\n" + "\n".join(f"a{n + 1} = [a{n}, a{n}]" for n in range(30))
         + "\nFastModel.get_peft_model(m, r=a30)", "unfolds|deep"),
    ],
)  # fmt: skip
def test_what_is_no_script_is_refused_in_one_line(text: str, told: str) -> None:
    with pytest.raises(BrokenInput, match=told) as caught:
        parse_document(text, "train.py")
    assert "\n" not in str(caught.value)


def test_a_script_without_unsloth_is_nobodys() -> None:
    assert script_calls("import torch\nprint(1)\nmodel.from_pretrained('x')", "a.py") == {}
    assert format_of(parse_document(script(), "train.py")).name == "unsloth"
    with pytest.raises(BrokenInput, match="neither get_peft_model nor full_finetuning"):
        read(script(peft=None))


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("from_pretrained.", "get_peft_model."))])
def test_every_argument_is_classified(name: str) -> None:
    call, _, argument = name.partition(".")
    if argument in ("model_name", "model"):
        return  # every script has them
    for value in ("None", "True", "3", "'some'"):
        text = script(load=f"{argument}={value}") if call == "from_pretrained" else script(peft=f"{argument}={value}")
        assert knows(lambda text=text: read(text), argument, name), (name, value)  # type: ignore[misc]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("from_", "get_"))])
def test_every_key_of_studio_is_classified(name: str) -> None:
    section, _, key = name.rpartition(".")
    for value in (True, 3, "some"):
        keys = {section: {key: value}} if section else {key: value}
        assert knows(lambda keys=keys: studio(**keys), key, name, section), (name, value)  # type: ignore[misc]


def knows(reading: Callable[[], Understood], key: str, *names: str) -> bool:
    """Whether a key has a fate; a wrong type tells as much."""
    try:
        told = [one for one in reading().readings if one.key in names]
    except BrokenInput as error:
        return key in str(error)
    return bool(told) and all(one.fate != "unknown" and not one.why.startswith("did you mean") for one in told)


def test_a_key_that_nobody_knows_is_told() -> None:
    assert {one.key for one in read(script(load="colour='red'")).of("unknown")} == {"from_pretrained.colour"}
    assert unmodelled(read(script(peft="lora_alfa=3"))) == {"get_peft_model.lora_alfa"}


@pytest.mark.parametrize(
    ("text", "method", "settings"),
    [
        (script(), "qlora", {"micro_batch_size": 2}),
        (script(load="load_in_4bit=False"), "lora", {}),
        (script(load="load_in_16bit=True"), "lora", {}),
        (script(load="load_in_4bit=False, load_in_8bit=True"), "qlora", {"quant": "int8"}),
        (script(load="full_finetuning=True", peft=None), "full", {}),
        (
            script(load="full_finetuning=True, float32_mixed_precision=True", peft=None),
            "full",
            {"weights_dtype": "fp32"},
        ),
        (script(load="dtype=torch.float16"), "qlora", {"weights_dtype": "fp16"}),
        (script(peft="r=8, lora_alpha=16, lora_dropout=0.1"), "qlora", {"lora_rank": 8, "lora_dropout": 0.1}),
        (
            script(peft="target_modules=['q_proj', 'lm_head']"),
            "qlora",
            {"lora_targets": ("q_proj",), "modules_to_save": ("lm_head",)},
        ),
        (script(peft="target_modules='all-linear'"), "qlora", {"lora_targets": ("all-linear",)}),
        (script(load="max_seq_length=4096"), "qlora", {"seq_len": 4096}),
        (script(load="max_seq_length=4096", config="max_length=1024"), "qlora", {"seq_len": 1024}),
        (
            script(peft="use_gradient_checkpointing='unsloth'", load="max_seq_length=2048"),
            "qlora",
            {"gradient_checkpointing": True, "offload": ("activations",)},
        ),
        (
            script(peft="use_gradient_checkpointing='unsloth'", load="max_seq_length=300"),
            "qlora",
            {"gradient_checkpointing": True, "offload": ()},
        ),
        (script(peft="use_gradient_checkpointing=True"), "qlora", {"gradient_checkpointing": True, "offload": ()}),
        (script(peft="use_gradient_checkpointing=False"), "qlora", {"gradient_checkpointing": False, "offload": ()}),
        (script(config="optim='adamw_8bit', bf16=True"), "qlora", {"optimizer": "adamw_8bit", "autocast": "bf16"}),
    ],
)
def test_what_a_script_says(text: str, method: str, settings: dict[str, Any]) -> None:
    found = read(text)

    assert found.method == method
    assert {name: found.settings[name] for name in settings} == settings
    assert not unmodelled(found)


def test_the_card_chooses_between_16_bit_dtypes() -> None:
    found = read(script(config="fp16 = not is_bfloat16_supported(), bf16 = is_bfloat16_supported()"))

    assert "autocast" not in found.settings
    assert not unmodelled(found)


def test_transformers_own_arguments_have_their_own_defaults() -> None:
    old = script(config="logging_steps=1").replace("SFTConfig", "TrainingArguments")
    assert read(old).settings["micro_batch_size"] == 8
    assert "micro_batch_size" not in read(script(config="logging_steps=1")).settings


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (script(peft="r=rank()"), {"get_peft_model.r"}),
        (script(load="load_in_4bit=args.four"), {"from_pretrained.load_in_4bit"}),
        (script(config="per_device_train_batch_size=n"), {"SFTConfig.per_device_train_batch_size"}),
        (script(load="fast_inference=True"), {"from_pretrained.fast_inference"}),
        (script(load="device_map='balanced'"), {"from_pretrained.device_map"}),
        (script(peft="bias='all'"), {"get_peft_model.bias"}),
        (script(peft="**more"), {"get_peft_model.**"}),
        (script(config="num_iterations=2"), {"SFTConfig.num_iterations"}),
        (script(peft="finetune_mlp_modules=False"), {"get_peft_model.finetune_mlp_modules"}),
        (script().replace("SFTConfig(per_device_train_batch_size=2)", "arguments"), {"SFTConfig"}),
        (
            script().replace("FastLanguageModel", "FastVisionModel"),
            {"FastVisionModel.from_pretrained", "FastVisionModel.get_peft_model"},
        ),
    ],
)
def test_what_could_change_the_answer_is_told(text: str, keys: set[str]) -> None:
    assert unmodelled(read(text)) == keys


def test_a_computed_model_is_asked_for() -> None:
    found = read(script().replace(LOAD, "model_name=args.model"))
    assert found.model is None
    assert [one.why for one in found.of("unknown")] == ["it is computed: only literals are read: --model says it"]


# ---------------------------------------------------------------- Studio


def test_studio_has_defaults_of_its_own() -> None:
    found = studio()

    assert (found.method, found.job) == ("qlora", {"epochs": 3.0, "packing": False})
    assert found.settings["lora_rank"] == 64
    assert found.settings["optimizer"] == "adamw_8bit"
    assert "--optimizer" in found.notes[0]


def test_studio_says_what_it_says() -> None:
    found = studio(
        training={"training_type": "full", "max_seq_length": 512, "batch_size": 1, "gradient_checkpointing": False},
        lora={"lora_r": 8},
    )
    assert found.method == "full"
    assert found.settings["seq_len"] == 512
    assert (found.settings["gradient_checkpointing"], found.settings["offload"]) == (False, ())
    assert "lora_rank" not in found.settings
    assert studio(training={"load_in_4bit": False}).method == "lora"
    assert unmodelled(studio(lora={"use_dora": True})) == {"lora.use_dora"}
    with pytest.raises(BrokenInput, match="training_type 'half' is neither lora nor full"):
        studio(training={"training_type": "half"})
    with pytest.raises(BrokenInput, match="is not unsloth, true or none"):
        studio(training={"gradient_checkpointing": ["unsloth"]})


# ---------------------------------------------------------------- exports

BESIDE: tuple[dict[str, Any], ...] = (
    {"optimizer": "adamw_foreach"},
    {"optimizer": "paged_adamw_8bit", "seq_len": 300, "offload": ()},
    {"gradient_checkpointing": False, "offload": ()},
    {"offload": (), "grad_accumulation": 8},
    {"autocast": "fp16", "weights_dtype": "fp16"},
    {"optimizer": "adafactor", "micro_batch_size": 4},
)
ADAPTED: tuple[dict[str, Any], ...] = (
    {"lora_rank": 64, "lora_alpha": 16.0, "lora_dropout": 0.05},
    {"lora_targets": ("v_proj", "q_proj"), "modules_to_save": ("lm_head",)},
    {"lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")},
    {"gpus": 2},
)


def grid() -> Iterator[Request]:
    for method, settings in product(("full", "lora", "qlora"), BESIDE):
        if method != "full" or settings.get("weights_dtype") != "fp16":
            yield request(method, **settings)
    for method, settings in product(("lora", "qlora"), ADAPTED):
        yield request(method, **settings)
    yield request("qlora", quant="int8")
    yield request("full", weights_dtype="fp32", attention="flash")
    yield request("full", gpus=4)
    yield request("lora", job=Job(tokens=10**6, sequences=1000, epochs=2.0, packing=True))


GRID = tuple(grid())


def named(asked: Request) -> str:
    """What tells a run from the others."""
    return "-".join(map(str, (*asked.methods, asked.gpus, *asked.settings.values())))


@pytest.mark.parametrize("asked", GRID, ids=named)
def test_what_leaves_comes_back_with_the_same_bytes(asked: Request) -> None:
    written, left = leave("unsloth", asked, unsloth)
    back = read_back(written, asked)

    assert differences(left, back) == {}
    assert peak(left) == peak(back)


def test_the_script_is_python_and_its_launch_knows_the_cards() -> None:
    one = export("unsloth", Request(model="8b", gpu="4090", methods=("qlora",), stack=""))
    two = export("unsloth", Request(model="8b", gpu="l4", gpus=2, methods=("qlora",), stack=""), dataset='da"ta.jsonl')

    compile(one.files[0].text, "train.py", "exec")
    compile(two.files[0].text, "train.py", "exec")
    assert one.files[0].text.index("from unsloth import") < one.files[0].text.index("from trl import")
    assert (one.launch, two.launch) == ("python train.py", "torchrun --nproc_per_node 2 train.py")
    assert r'data_files="da\"ta.jsonl"' in two.files[0].text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sharding": "fsdp", "gpus": 2}, "--sharding fsdp is not planned: use none or ddp"),
        ({"attention": "sdpa"}, "--attention 'sdpa'"),
        ({"autocast": "none"}, "--autocast none"),
        ({"quant": "fp4"}, "fp4"),
        ({"gradient_checkpointing": False, "offload": ("activations",)}, "--offload|checkpoint"),
    ],
)
def test_what_unsloth_cannot_do_is_an_error_that_names_it(settings: dict[str, Any], told: str) -> None:
    gpus = settings.pop("gpus", 1)
    with pytest.raises(UnsupportedScenario, match=told):
        export("unsloth", Request(model="8b", gpu="h100", gpus=gpus, methods=("qlora",), settings=settings, stack=""))
