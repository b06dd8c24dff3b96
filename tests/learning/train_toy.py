"""A training as a process of its own: python -m tests.learning.train_toy capt|coop FOLDER EPOCHS.

It keeps a checkpoint of every step in the folder `train` and goes on from it. All that it needs is
imported with it, which a process that is about to fork can do beforehand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from capt_core import params
from capt_core.backbone.loading import load_backbone
from capt_core.learning.checkpoint import Checkpoint
from capt_core.learning.loop import Trained
from capt_core.learning.processes import Processes
from capt_core.methods.coop import CoOp, CoOpSettings
from capt_core.methods.task import Task
from tests import paper_preset
from tests.methods.capt.toy import toy_backbone, toy_trainer
from tests.toys import toy_dataset

EPOCHS, STEPS_PER_EPOCH = 16, 2

toy_backbone()  # imports open_clip


def train_capt(folder: Path, epochs: int) -> tuple[nn.Module, Trained]:
    settings = paper_preset.train(
        epochs=epochs,
        batch_size=2,
        accumulate=2,
        optimizer="adamw",
        learning_rate=0.01,
        representative_noise=0.1,
        interpolation=0.7,
    )
    checkpoint = Checkpoint(folder / "train" / "capt.safetensors", every=1)
    trainer = toy_trainer(folder, settings, checkpoint=checkpoint, blocks=2)
    trainer.processes = Processes(trainer.backbone.device)
    return trainer.model, trainer.fit()


def train_coop(folder: Path, epochs: int) -> tuple[nn.Module, Trained]:
    dataset = toy_dataset([0, 0, 1, 1, 2, 3], 4)  # base: c0, c1
    features = torch.randn(6, 128, generator=torch.Generator().manual_seed(1))
    task = Task(
        dataset,
        dataset.samples,
        load_backbone(params.Backbone(), params.Runtime(device="cpu")),
        seed=1,
        shots=2,
        features=lambda: functional.normalize(features, dim=-1),
        work=folder,
        checkpoint_steps=1,
    )
    settings = CoOpSettings(epochs=epochs, batch_size=2, context_init=None, context_length=2)
    fitted = CoOp(settings).fit(task)
    assert fitted.training_run is not None
    return fitted, fitted.training_run


TRAININGS = {"capt": train_capt, "coop": train_coop}


def main(training: str, folder: Path, epochs: int = EPOCHS) -> None:
    """Train, and write `model.safetensors`, `log.csv` and the steps that this process took."""
    folder.mkdir(exist_ok=True)
    module, trained = TRAININGS[training](folder, epochs)
    if Processes().first:
        state = {name: value.contiguous() for name, value in module.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        trained.log.write_csv(folder / "log.csv")
        (folder / "steps.json").write_text(json.dumps(trained.speed["step"].to_list()))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
