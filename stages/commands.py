"""Every command of the command line: its name and what it does, in one line.

The command ``extract-features`` is the module ``extract_features`` beside this file: its function
`main`, or its Typer `app` where it is a group of commands. Nothing is imported here, so that the
command line starts fast.
"""

STAGES = {
    "prepare": "List images and classes; draw the few-shot lists.",
    "extract-features": "Encode images and class prompts, once.",
    "fit-teacher": "Fit the base model whose errors are studied.",
    "infer-teacher": "Classify every image with the base model.",
    "build-bank": "Collect misclassified training images; count pairs.",
    "mine-pairs": "Find the classes each image is confused with.",
    "generate-prompts": "Say what confused classes share and what not.",
    "cluster-prompts": "Cluster the classes by what their prompts say.",
    "mine-samples": "Retrieve the confusing image of every pair.",
    "train": "Train a method on the frozen base model.",
    "evaluate": "Score a method: base, novel, corrected, broken.",
    "report": "Write results tables, figures and an HTML page.",
}
"""The stages, in the order of the pipeline."""

TOOLS = {
    "init": "Start a project of your own in a folder: settings and pipeline.",
    "fetch": "Download, verify and unpack a benchmark into its usual layout.",
    "doctor": "Check installation, weights, folders and every image of a data set.",
    "prompts": "Read, check, import and export prompts.",
    "study": "Run a named variant through every stage behind the frozen features.",
    "study-report": "Write the study's tables and charts.",
}

PIPELINE = tuple(STAGES)
