"""Names of the commands; the module of each has its name with underscores."""

PIPELINE = (
    "prepare",
    "extract-features",
    "fit-teacher",
    "infer-teacher",
    "build-bank",
    "mine-pairs",
    "generate-prompts",
    "cluster-prompts",
    "mine-samples",
    "train",
    "evaluate",
    "report",
)
TOOLS = ("fetch", "doctor", "prompts", "study", "study-report")
