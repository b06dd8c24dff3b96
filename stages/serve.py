"""Tool serve: a trained model as a service on this machine, with one page to drop an image on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from capt_core.data.decoding import LARGEST_FILE, LARGEST_PIXELS
from capt_core.params import load_settings
from capt_core.serving.access import hosts_of, is_loopback
from capt_core.serving.answers import Answerer
from capt_core.serving.app import build_app
from capt_core.serving.companions import find_companions, known_pairs
from capt_core.serving.server import listening, serve, url_of
from capt_core.serving.uploads import Limits
from capt_core.user_paths import user_path

from . import activity, options
from .console import note, reporter, result, warn
from .models import trained_model


def main(
    model: Annotated[Path, typer.Argument(help="File that train or TrainedModel.save wrote.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but a loopback one is open to others.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    max_megabytes: Annotated[
        int, typer.Option(min=1, max=LARGEST_FILE // 10**6, help="Size that an image may have.")
    ] = 20,
    max_megapixels: Annotated[
        int,
        typer.Option(
            min=1, max=LARGEST_PIXELS // 10**6, help="Millions of pixels that an image may have."
        ),
    ] = 50,
    artifacts: Annotated[
        Path | None,
        typer.Option(help="Folder of the artifacts; the one the model lies in if not given."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="prompts.parquet or a prompt store, in place of the artifacts' prompts."),
    ] = None,
    params: options.Params = options.PARAMS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    # Taken first: who has to choose another port need not wait for the model.
    with listening(host, port) as listener:
        settings, _ = load_settings(params, None, set_ or ())
        loaded = trained_model(model, settings)
        origin = loaded.provenance
        settings, _ = load_settings(params, origin.dataset, set_ or ())
        companions = find_companions(
            model,
            origin,
            loaded.seed,
            artifacts=artifacts and user_path(artifacts, "--artifacts"),
            prompts=prompts and user_path(prompts, "--prompts"),
            data_root=settings.data.root,
            reporter=reporter(),
        )
        answerer = Answerer(loaded, companions)
        # Whatever is made at the first answer is made here, and what is wrong is said here.
        side = loaded.preprocess.size
        answerer.answer_for(Image.new("RGB", (side, side)))
        for line in companions.notes:
            note(line)
        if answerer.warning:
            warn(answerer.warning)
        if not is_loopback(host):
            warn(f"--host {host}: everybody who can reach this machine can use the service")
        limits = Limits(max_megabytes * 10**6, max_megapixels * 10**6)
        app = build_app(answerer, hosts_of(host), limits, log=note)
        url = url_of(listener)
        classes, pairs = (
            len(loaded.class_names),
            known_pairs(companions.differences, loaded.class_names),
        )
        result(
            {
                "url": url,
                "method": loaded.method,
                "dataset": origin.dataset,
                "classes": classes,
                "pairs_with_prompts": pairs,
                "images": len(answerer.thumbnails),
            },
            f"{loaded.method} of {origin.dataset}, {classes} classes, prompts of {pairs} pairs, "
            f"{len(answerer.thumbnails)} images; Ctrl-C ends it",
            f"serving on {url}",
        )
        with activity.waiting():
            serve(app, listener)
