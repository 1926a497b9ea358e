# full fine-tuning
from unsloth import FastLanguageModel
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

max_seq_length = 2048
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name = "unsloth/Llama-3.2-3B",
    max_seq_length = max_seq_length,
    load_in_4bit = False,
    full_finetuning = True,
)
dataset = load_dataset("yahma/alpaca-cleaned", split = "train")
trainer = SFTTrainer(
    model = model,
    tokenizer = tokenizer,
    train_dataset = dataset,
    args = SFTConfig(
        per_device_train_batch_size = 1,
        gradient_accumulation_steps = 4,
        max_steps = 60,
        optim = "adamw_8bit",
        output_dir = "outputs",
    ),
)
trainer.train()
