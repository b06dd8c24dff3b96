"""The toy training as a process of its own: python -m tests.methods.capt.train_toy FOLDER EPOCHS.

It keeps a checkpoint of every step in the folder, beside the images, and goes on from it. All that
it needs is imported with it, which a process that is about to fork can do beforehand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from capt_core.methods.capt.model import save_state
from capt_core.params import Train
from capt_core.learning.checkpoint import Checkpoint
from capt_core.learning.processes import Processes
from tests.methods.capt.toy import toy_backbone, toy_trainer

STEPS_PER_EPOCH = 2

toy_backbone()  # imports open_clip


def main(folder: Path, epochs: int) -> None:
    """Train, and write `model.safetensors`, `log.csv` and the steps that this process took."""
    settings = Train(
        epochs=epochs,
        batch_size=2,
        accumulate=2,
        optimizer="adamw",
        learning_rate=0.01,
        representative_noise=0.1,
        interpolation=0.7,
    )
    checkpoint = Checkpoint(folder / "checkpoint.safetensors", every=1)
    trainer = toy_trainer(folder, settings, checkpoint=checkpoint, blocks=2)
    trainer.processes = Processes(trainer.backbone.device)
    fitted = trainer.fit()
    if trainer.processes.first:
        save_file(save_state(trainer.model), folder / "model.safetensors")
        fitted.log.write_csv(folder / "log.csv")
        (folder / "steps.json").write_text(json.dumps(fitted.speed["step"].to_list()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
