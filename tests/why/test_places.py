"""The phase in which a traceback ends."""

import pytest

from planner.why import hints, place

HEAD = "Traceback (most recent call last):\n"
TRAIN = '  File "/app/train.py", line 88, in <module>\n    trainer.train()\n'
LOOP = '  File "/v/transformers/trainer.py", line 2672, in _inner_training_loop\n    loss = self.training_step(m)\n'
END = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB\n"
)


def frame(file: str, function: str, code: str) -> str:
    return f'  File "{file}", line 7, in {function}\n    {code}\n'


CASES = [
    ("backward", frame("/v/accelerate/accelerator.py", "backward", "loss.backward(**kwargs)")),
    (
        "backward",
        frame("/v/torch/_tensor.py", "backward", "torch.autograd.backward(")
        + frame("/v/torch/autograd/graph.py", "_engine_run_backward", "return Variable._execution_engine.run_backward(")
        + frame("/v/torch/utils/checkpoint.py", "recompute_fn", "fn(*args, **kwargs)")
        + frame("/v/transformers/models/llama/modeling_llama.py", "forward", "self.mlp(hidden_states)"),
    ),
    ("optimizer_step", frame("/v/torch/optim/adamw.py", "_multi_tensor_adamw", "torch._foreach_sqrt(exp_avg_sqs)")),
    ("optimizer_step", frame("/v/bitsandbytes/optim/optimizer.py", "init_state", "state['state1'] = self.get_state()")),
    ("optimizer_step", frame("/app/train.py", "step", "optimizer.step()")),
    ("loss", frame("/v/transformers/loss/loss_utils.py", "ForCausalLMLoss", "logits = logits.float()")),
    ("loss", frame("/v/torch/nn/functional.py", "cross_entropy", "return torch._C._nn.cross_entropy_loss(")),
    ("forward", frame("/v/transformers/models/qwen2/modeling_qwen2.py", "forward", "attn_output = self.o_proj(x)")),
    (
        "evaluation",
        frame("/v/transformers/trainer.py", "evaluation_loop", "all_preds.add(logits)")
        + frame("/v/transformers/trainer_pt_utils.py", "nested_concat", "return torch.cat((a, b), dim=0)"),
    ),
    ("evaluation", frame("/v/transformers/trainer.py", "prediction_step", "loss, outputs = self.compute_loss(m)")),
    (
        "generation",
        frame("/v/transformers/generation/utils.py", "generate", "result = decoding_method(")
        + frame("/v/transformers/models/llama/modeling_llama.py", "forward", "logits = self.lm_head(hidden)"),
    ),
    ("load", frame("/v/transformers/modeling_utils.py", "from_pretrained", "model = cls(config)")),
    ("load", frame("/v/peft/utils/other.py", "prepare_model_for_kbit_training", "param.data.to(torch.float32)")),
    ("merge", frame("/v/peft/tuners/lora/model.py", "merge_and_unload", "return self._unload_and_optionally_merge(")),
    ("save", frame("/v/transformers/trainer.py", "_save_checkpoint", "self.save_model(output_dir)")),
    ("resume", frame("/v/transformers/trainer.py", "_load_optimizer_and_scheduler", "self.optimizer.load_state_dict(")),
]


@pytest.mark.parametrize(("phase", "inner"), CASES)
def test_frames_tell_the_phase(phase: str, inner: str) -> None:
    found = place(HEAD + TRAIN + LOOP + inner + END)

    assert found is not None
    assert found.phase == phase


def test_ranks_before_every_line_are_ignored() -> None:
    text = HEAD + TRAIN + frame("/v/torch/optim/adamw.py", "step", "_fused_adamw(") + END
    marked = "".join(f"[rank1]: {line}\n" for line in text.splitlines())

    found = place(marked)

    assert found == place(text)
    assert found is not None
    assert found.frame.place == "optim/adamw.py:7"


def test_of_two_tracebacks_the_one_that_ran_out_counts() -> None:
    first = HEAD + TRAIN + frame("/v/torch/optim/adamw.py", "step", "_fused_adamw(") + END
    second = (
        HEAD + TRAIN + frame("/v/transformers/modeling_utils.py", "save_pretrained", "raise") + "OSError: disk full\n"
    )

    found = place(first + "\nDuring handling of the above exception, another exception occurred:\n\n" + second)

    assert found is not None
    assert found.phase == "optimizer_step"


def test_a_message_without_a_traceback_has_no_place() -> None:
    assert place(END) is None
    assert place("") is None


HINTED = [
    ("WHY112", frame("/v/transformers/loss/loss_utils.py", "ForCausalLMLoss", "logits = logits.float()")),
    ("WHY115", frame("/v/transformers/models/llama/modeling_llama.py", "eager_attention_forward", "torch.matmul(")),
    ("WHY116", frame("/v/transformers/integrations/sdpa_attention.py", "sdpa_attention_forward", "attn = torch.nn")),
    ("WHY117", frame("/v/flash_attn/flash_attn_interface.py", "_wrapped_flash_attn_backward", "flash_attn_gpu.bwd(")),
    ("WHY119", frame("/v/torch/utils/checkpoint.py", "unpack_hook", "frame.recompute_fn(*args)")),
    ("WHY125", frame("/v/torch/optim/adamw.py", "_multi_tensor_adamw", "torch._foreach_sqrt(")),
    ("WHY126", frame("/v/torch/optim/adam.py", "_fused_adam", "torch._fused_adam_(")),
    ("WHY127", frame("/v/bitsandbytes/optim/optimizer.py", "step", "self.init_state(")),
    ("WHY132", frame("/v/liger_kernel/ops/rms_norm.py", "forward", "rms_norm_forward(")),
    ("WHY140", frame("/app/train.py", "main", "model = prepare_model_for_kbit_training(model)")),
]


@pytest.mark.parametrize(("code", "inner"), HINTED)
def test_frames_speak_for_settings(code: str, inner: str) -> None:
    assert code in [hint.code for hint in hints(HEAD + TRAIN + LOOP + inner + END)]


def test_ordinary_frames_speak_for_nothing() -> None:
    assert hints(HEAD + TRAIN + LOOP + END) == ()
