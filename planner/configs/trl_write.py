"""Writes TRL's YAML for a chosen run, with accelerate's beside it where there are several cards."""

from planner.configs.hf_write import (
    ACCELERATE,
    MISSING_DATASET,
    dataset_file,
    launch_options,
    launcher_files,
    model_lines,
    recipe_lines,
    refuse,
    setup,
    several,
    training_lines,
)
from planner.configs.written import Chosen, File, Line, Written, yaml_text
from planner.errors import UnsupportedScenario

BETA = 0.04
"""How much the reference holds GRPO back, where there is one: DeepSeekMath, arXiv:2402.03300, section 4.2."""


def write(chosen: Chosen) -> Written:
    """``sft.yaml``, ``dpo.yaml`` or ``grpo.yaml``, and the launcher's files."""
    refuse(chosen, "trl")
    kind = chosen.train.objective
    name = f"{kind}.yaml"
    lines = [*_data_lines(chosen), *model_lines(chosen), *_own_lines(chosen), *training_lines(chosen)]
    lines += [*recipe_lines(chosen), Line("output_dir", "output"), *_launch_lines(chosen)]
    text = yaml_text(chosen.heading, lines, _missing(chosen))
    beside = launcher_files(chosen) if several(chosen) else ()
    return Written(
        files=(File(name, text), *beside),
        configs=(name, *(file.name for file in beside)),
        launch=f"trl {kind} --config {name}{launch_options(chosen)}",
        setup=setup(chosen),
        settings={"seq_len": chosen.train.seq_len} if kind == "grpo" else {},
    )


def _data_lines(chosen: Chosen) -> list[Line]:
    """The dataset, by its name on the Hub or as a file."""
    if found := dataset_file(chosen):
        builder, path = found
        return [Line("datasets", [{"path": builder, "data_files": path, "split": "train"}])]
    return [Line("dataset_name", chosen.dataset)] if chosen.dataset else []


def _missing(chosen: Chosen) -> list[str]:
    """What nobody has said, and TRL asks for; without it TRL stops before it loads anything."""
    wanted = [] if chosen.dataset else [f"dataset_name:  # {MISSING_DATASET}"]
    if chosen.train.objective == "grpo":
        wanted.append("reward_funcs:  # set this before you start: what rewards a completion, as in accuracy_reward")
    return wanted


def _own_lines(chosen: Chosen) -> list[Line]:
    """Keys that only one of TRL's trainers has."""
    train = chosen.train
    lines = [Line("activation_offloading", value=True)] if "activations" in train.offload else []
    if train.objective == "grpo":
        return [*lines, *_grpo_lines(chosen)]
    lines.insert(0, Line("max_length", train.seq_len, "tokens of a sequence; longer ones are cut"))
    if train.objective == "dpo":
        return [*lines, *_dpo_lines(chosen)]
    if train.context_parallel > 1:
        lines.append(Line("pad_to_multiple_of", 2 * train.context_parallel, "two parts of a sequence for each rank"))
    return [*lines, Line("packing", chosen.job.packing)]


def _dpo_lines(chosen: Chosen) -> list[Line]:
    train = chosen.train
    if train.reference == "copy" and train.uses_adapters:
        raise UnsupportedScenario("trl cannot express --reference copy beside adapters: use --reference base")
    without = train.reference == "none"
    return [Line("precompute_ref_log_probs", without, "the reference runs once, before training" if without else "")]


def _grpo_lines(chosen: Chosen) -> list[Line]:
    train = chosen.train
    reference = train.reference != "none"
    return [
        Line("num_generations", train.num_generations, "completions of each prompt"),
        Line(
            "max_completion_length", train.completion_len, f"prompts are planned with up to {train.prompt_len} tokens"
        ),
        Line("beta", BETA if reference else 0.0, "held to a reference" if reference else "without a reference"),
        Line("use_vllm", value=False),
    ]


def _launch_lines(chosen: Chosen) -> list[Line]:
    """What ``trl`` passes on to accelerate: TRL's trainers refuse several visible cards in one process."""
    if several(chosen):
        return [Line("accelerate_config", ACCELERATE)]
    return [Line("num_processes", 1), Line("gpu_ids", "0", "one card, also where there are more")]
