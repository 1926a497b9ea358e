"""Resource planner and method recommender for fine-tuning language models."""
