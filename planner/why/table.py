"""What a run may have done otherwise than was planned: each a change of one setting that the estimator can plan.

A change has a stable code, words, and the settings that plan it; ``usual`` ranks how often it is what happened, least
first, as far as issues of the libraries let one judge, and decides only between changes that explain equally well.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from planner.recommend.request import Ask, Setting
from planner.recommend.single import PEFT_TARGETS
from planner.spec import SHARDS_WEIGHTS, Method, TrainSpec

Settings = Mapping[str, Setting]
Test = Callable[[TrainSpec], bool]

EMBEDDINGS = ("embed_tokens", "lm_head")
"""What tokenizers with new tokens, and some tutorials, have trained whole."""

OLDER = "transformers=4.44"
"""Before transformers 4.46 and 5: logits are cast under their own name, the loss copies them to shift, experts are
separate modules, checkpoints are reentrant. See docs/stacks.md."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference: what it says, what plans it, and where it can be."""

    code: str
    words: str
    usual: int
    settings: Settings = field(default_factory=dict)
    method: Method | None = None
    stack: str | None = None
    holds: Test = lambda _train: True
    """Whether the planned run is such that the real one can have differed so."""

    @property
    def axis(self) -> frozenset[str]:
        """What it changes; two changes of one thing exclude each other."""
        names = {*self.settings, *(["method"] if self.method else []), *(["stack"] if self.stack else [])}
        return frozenset(names)

    def on(self, ask: Ask, method: Method) -> Ask:
        """The question that plans it."""
        changed = ask.using(self.method or method, self.settings)
        if self.stack is None:
            return changed
        return replace(changed, request=replace(changed.request, stack=self.stack))


def _not(name: str, *values: object) -> Test:
    return lambda train: getattr(train, name) not in values


def _eight_bit(train: TrainSpec) -> bool:
    return "8bit" in train.optimizer or "paged" in train.optimizer


CHANGES: tuple[Change, ...] = (
    Change(
        code="WHY101",
        words="the weights were loaded in fp32: no dtype (torch_dtype) was given, or a checkpoint's was taken",
        usual=1,
        settings={"weights_dtype": "fp32"},
        holds=_not("weights_dtype", "fp32"),
    ),
    Change(
        code="WHY102",
        words="the weights were loaded in bf16",
        usual=3,
        settings={"weights_dtype": "bf16"},
        holds=_not("weights_dtype", "bf16"),
    ),
    Change(
        code="WHY103",
        words="the base was not quantised: the quantization_config did not reach from_pretrained",
        usual=2,
        method="lora",
        holds=lambda train: train.quantized,
    ),
    Change(
        code="WHY104",
        words="the base was quantised to 4 bits",
        usual=5,
        method="qlora",
        holds=lambda train: train.method == "lora",
    ),
    Change(
        code="WHY105",
        words="the base was loaded in 8 bits",
        usual=4,
        settings={"quant": "int8"},
        holds=lambda train: train.quantized and train.quant != "int8",
    ),
    Change(
        code="WHY106",
        words="the base was loaded in 4 bits",
        usual=4,
        settings={"quant": "nf4"},
        holds=lambda train: train.quantized and train.quant == "int8",
    ),
    Change(
        code="WHY107",
        words="double quantisation was off",
        usual=4,
        settings={"double_quant": False},
        holds=lambda train: train.quantized and train.double_quant,
    ),
    Change(
        code="WHY108",
        words="double quantisation was on",
        usual=6,
        settings={"double_quant": True},
        holds=lambda train: train.quantized and not train.double_quant,
    ),
    Change(
        code="WHY109",
        words="every weight was trained: the adapters did not freeze the base, or were not applied",
        usual=2,
        method="full",
        holds=lambda train: train.method == "lora",
    ),
    Change(
        code="WHY110",
        words="only adapters were trained",
        usual=5,
        method="lora",
        holds=lambda train: train.method == "full",
    ),
    Change(
        code="WHY111",
        words="the embedding and the head were trained whole: modules_to_save, or new tokens",
        usual=3,
        settings={"modules_to_save": EMBEDDINGS},
        holds=lambda train: train.uses_adapters and not train.modules_to_save,
    ),
    Change(
        code="WHY112",
        words="the head made whole logits: another loss path",
        usual=2,
        settings={"loss": "full"},
        holds=_not("loss", "full"),
    ),
    Change(
        code="WHY113",
        words="the loss went chunk by chunk",
        usual=4,
        settings={"loss": "chunked"},
        holds=_not("loss", "chunked"),
    ),
    Change(
        code="WHY114",
        words="the loss was fused with the head",
        usual=4,
        settings={"loss": "fused"},
        holds=_not("loss", "fused"),
    ),
    Change(
        code="WHY115",
        words="attention was eager: its scores are whole matrices",
        usual=2,
        settings={"attention": "eager"},
        holds=_not("attention", "eager"),
    ),
    Change(
        code="WHY116",
        words="attention was sdpa",
        usual=3,
        settings={"attention": "sdpa"},
        holds=_not("attention", "sdpa"),
    ),
    Change(
        code="WHY117",
        words="attention was FlashAttention-2",
        usual=5,
        settings={"attention": "flash"},
        holds=_not("attention", "flash"),
    ),
    Change(
        code="WHY118",
        words="gradient checkpointing was not on",
        usual=1,
        settings={"gradient_checkpointing": False},
        holds=lambda train: train.gradient_checkpointing,
    ),
    Change(
        code="WHY119",
        words="gradient checkpointing was on",
        usual=3,
        settings={"gradient_checkpointing": True},
        holds=lambda train: not train.gradient_checkpointing,
    ),
    Change(
        code="WHY120",
        words="there was no autocast",
        usual=4,
        settings={"autocast": "none"},
        holds=_not("autocast", "none"),
    ),
    Change(
        code="WHY121",
        words="autocast to bf16 was on: bf16=True of the trainer",
        usual=4,
        settings={"autocast": "bf16"},
        holds=_not("autocast", "bf16"),
    ),
    Change(
        code="WHY122",
        words="the adapters were in fp32",
        usual=4,
        settings={"adapter_dtype": "fp32"},
        holds=lambda train: train.uses_adapters and train.adapter_dtype != "fp32",
    ),
    Change(
        code="WHY123",
        words="the adapters were in bf16",
        usual=5,
        settings={"adapter_dtype": "bf16"},
        holds=lambda train: train.uses_adapters and train.adapter_dtype != "bf16",
    ),
    Change(
        code="WHY124",
        words="the optimizer kept whole states: the 8-bit or paged one was not in effect",
        usual=2,
        settings={"optimizer": "adamw"},
        holds=_eight_bit,
    ),
    Change(
        code="WHY125",
        words="AdamW ran foreach, with temporaries as large as all gradients",
        usual=3,
        settings={"optimizer": "adamw_foreach"},
        holds=_not("optimizer", "adamw_foreach"),
    ),
    Change(
        code="WHY126",
        words="AdamW ran fused, without temporaries",
        usual=5,
        settings={"optimizer": "adamw_fused"},
        holds=_not("optimizer", "adamw_fused"),
    ),
    Change(
        code="WHY127",
        words="AdamW kept its states in 8 bits",
        usual=5,
        settings={"optimizer": "adamw_8bit"},
        holds=_not("optimizer", "adamw_8bit"),
    ),
    Change(
        code="WHY128",
        words="the optimizer's states were paged, outside of torch's allocator",
        usual=5,
        settings={"optimizer": "paged_adamw_8bit"},
        holds=_not("optimizer", "paged_adamw_8bit"),
    ),
    Change(
        code="WHY129",
        words="the optimizer kept no states: plain SGD",
        usual=7,
        settings={"optimizer": "sgd"},
        holds=_not("optimizer", "sgd"),
    ),
    Change(
        code="WHY130",
        words="gradients stood between micro-batches: accumulation was on",
        usual=4,
        settings={"grad_accumulation": 4},
        holds=lambda train: train.grad_accumulation == 1,
    ),
    Change(
        code="WHY131",
        words="there was no gradient accumulation",
        usual=6,
        settings={"grad_accumulation": 1},
        holds=lambda train: train.grad_accumulation > 1,
    ),
    Change(
        code="WHY132",
        words="kernels were fused: Liger's or Unsloth's",
        usual=5,
        settings={"kernels": "fused"},
        holds=_not("kernels", "fused"),
    ),
    Change(
        code="WHY133",
        words="kernels were not fused",
        usual=3,
        settings={"kernels": "eager"},
        holds=_not("kernels", "eager"),
    ),
    Change(
        code="WHY134",
        words="adapters sat on query and value projections only, as PEFT does where no targets are named",
        usual=5,
        settings={"lora_targets": PEFT_TARGETS},
        holds=lambda train: train.uses_adapters and train.lora_targets != PEFT_TARGETS,
    ),
    Change(
        code="WHY135",
        words="adapters sat on every matrix",
        usual=4,
        settings={"lora_targets": ("all-linear",)},
        holds=lambda train: train.uses_adapters and train.lora_targets != ("all-linear",),
    ),
    Change(
        code="WHY136",
        words="nothing was sharded: every rank held the whole model",
        usual=1,
        settings={"sharding": "ddp"},
        holds=_not("sharding", "none", "ddp"),
    ),
    Change(
        code="WHY137",
        words="quantised weights were not sharded: stored as uint8, every rank holds them whole",
        usual=2,
        settings={"quant_storage": "uint8"},
        holds=lambda train: train.quantized and train.sharding in SHARDS_WEIGHTS and train.quant_storage != "uint8",
    ),
    Change(
        code="WHY138",
        words="an evaluation ran as well, and kept the logits of its batches",
        usual=3,
        settings={"moments": "evaluation"},
        holds=lambda train: "evaluation" not in train.moments,
    ),
    Change(
        code="WHY139",
        words="evaluation kept no logits: prediction_loss_only, or no metrics",
        usual=4,
        settings={"eval_logits": False},
        holds=lambda train: "evaluation" in train.moments and train.eval_logits,
    ),
)
"""Every single change, in order of code."""

UPCAST = Change(
    code="WHY140",
    words="PEFT's prepare_model_for_kbit_training made the 16-bit parameters fp32",
    usual=2,
    stack="hf",
)
STACKS = (
    Change(code="WHY141", words="the transformers Trainer ran it, with its own defaults", usual=5, stack="hf"),
    Change(code="WHY142", words="TRL ran it, with its own defaults", usual=5, stack="trl"),
    Change(code="WHY143", words="a bare loop ran it, without autocast", usual=6, stack="plain"),
)
OLDER_LIBRARIES = Change(code="WHY144", words=f"older libraries ran it ({OLDER})", usual=5)

LARGER = (("micro_batch_size", "WHY145", "batches were of {} sequences"), ("lora_rank", "WHY146", "the rank was {}"))
LONGER = Change(code="WHY147", words="sequences were of {} tokens", usual=3)

STACK_SETTINGS = ("autocast", "loss", "adapter_dtype", "optimizer")
"""What a trainer chooses for the user; held fast where only its preparation of a 4-bit base is in question."""

CODES: Mapping[str, str] = MappingProxyType(
    {
        **{change.code: change.words for change in (*CHANGES, UPCAST, *STACKS, OLDER_LIBRARIES)},
        "WHY145": "batches were of more or fewer sequences",
        "WHY146": "the rank was higher or lower",
        LONGER.code: "sequences were longer or shorter; the length is chosen to meet what was observed",
    }
)
"""What each code says."""
