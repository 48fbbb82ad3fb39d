"""Options of nanoGPT's train.py that do not exist here, and what serves instead."""

OPTIONS_OF_NANOGPT = {
    "eval_iters": "evaluation reads the validation split in order; --eval_tokens=N reads only its first N tokens",
    "eval_only": "--init_from=CHECKPOINT --max_iters=0 --out_dir=NEW evaluates a checkpoint and takes no step",
    "log_interval": "every step is a line of metrics.jsonl in the run's folder",
    "always_save_checkpoint": "ckpt.pt is the latest state, best.pt the best one; see --checkpoint_interval",
    "wandb_.*": "nothing is sent anywhere; metrics.jsonl and loss.png are in the run's folder",
    "decay_lr": "for a constant learning rate give --min_lr the same value as --learning_rate",
    "bias": "no layer has a bias, as with nanoGPT's bias=False",
    "backend": "processes of torchrun use nccl on CUDA and gloo on a CPU",
}
