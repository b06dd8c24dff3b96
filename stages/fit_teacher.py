"""Stage fit-teacher: the base model whose errors are studied."""

from __future__ import annotations

from stages import options


def main(
    dataset: options.Dataset,
    seed: options.NoSeed = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> None:
    """Fix the base model whose errors are studied."""
    from capt_core.backbone.loading import load_backbone
    from capt_core.data.dataset import load_dataset
    from capt_core.methods.teacher import UNTRAINED_WARNING, Teacher, write_teacher
    from capt_core.params import settings_hash
    from stages.run import say, stage_run

    with stage_run("fit-teacher", dataset, seed, params, artifacts, set_) as run:
        settings, layout = run.settings, run.layout
        prepared = load_dataset(layout)
        backbone = load_backbone(settings.backbone, settings.runtime)
        teacher = Teacher(settings.fit_teacher.method, backbone.logit_scale, backbone.untrained)
        origin = prepared.provenance(backbone.identity, settings_hash(settings.fit_teacher))
        write_teacher(layout.teacher, teacher, origin)
        say(f"{teacher.method} on {backbone.identity} ({backbone.device}) -> {layout.teacher}")
        if teacher.untrained:
            say(UNTRAINED_WARNING)
