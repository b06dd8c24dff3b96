"""Every command of the command line: its name and what it does, in one line.

The command ``extract-features`` is the module ``extract_features`` beside this file: its function
`main`, or its Typer `app` where it is a group of commands. None of them is imported here, so that
the command line starts fast.
"""

from __future__ import annotations

import importlib
from types import ModuleType

STAGES = {
    "prepare": "List and check images and classes; draw the few-shot lists.",
    "extract-features": "Encode images and class prompts with the frozen backbone, once.",
    "fit-teacher": "Fit the base model whose errors are studied (zero-shot CLIP or another).",
    "infer-teacher": "Classify every image with the base model.",
    "build-bank": "Collect misclassified training images; count which pair how often.",
    "mine-pairs": "Find the classes each image and class is confused with (eq. 6, 7).",
    "generate-prompts": "Write what confused classes share and what tells them apart.",
    "cluster-prompts": "Cluster prompt embeddings (eq. 12); see how well they separate pairs.",
    "mine-samples": "Retrieve the most representative confusing images (eq. 8).",
    "train": "Fit a method on the frozen backbone.",
    "evaluate": "Score a method: base, novel, harmonic mean, corrected, broken.",
    "report": "Write results tables, figures and one HTML page over all runs.",
}
"""The stages, in the order of the pipeline."""

TOOLS = {
    "run": "Run every stage that is out of date, from a folder of photographs to the report.",
    "init": "Start a project of your own in a folder: settings and pipeline.",
    "import-checkpoint": "Read a trained CoOp, MaPLe or PromptSRC (Dassl) as the base model.",
    "import-predictions": "Take any classifier's predictions in the place of the base model's.",
    "predict": "Classify images with a trained model.",
    "export": "Write a trained model as ONNX, TorchScript, or safetensors with its backbone.",
    "push": "Send a trained model to the Hugging Face Hub, with a model card.",
    "pull": "Fetch a trained model from the Hugging Face Hub.",
    "serve": "Answer for images on this machine, with a page to drop one on.",
    "explain": "Draw where a model looks for two classes, before and after.",
    "fetch": "Download, verify and unpack a benchmark into its usual layout.",
    "doctor": "Check installation, weights, folders and every image of a data set.",
    "prompts": "Read, check, import and export prompts.",
    "study": "Run a named variant through every stage behind the frozen features.",
    "tables": "Fit every method of the paper's Table 1 and others; write them beside it.",
    "submit": "Send the study, the table, features or predictions to Slurm, or run them here.",
    "study-report": "Write the study's tables and charts.",
}

PIPELINE = tuple(STAGES)


def module_of(name: str) -> ModuleType:
    """Module of a command, imported when it is needed."""
    return importlib.import_module(f".{name.replace('-', '_')}", __package__)
