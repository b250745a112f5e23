"""``cvrnet demo``."""

from __future__ import annotations

import click

from cvrnet_cli import options
from cvrnet_cli.output import say


@click.command(short_help="A web page for a model, on this machine.")
@click.argument("model")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Where the page is served."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Whose requests are heard: 127.0.0.1 this machine's alone, 0.0.0.0 the whole network's.",
)
@click.option("--max-mb", type=click.IntRange(1), default=64, show_default=True, help="Megabytes of an upload.")
@options.folds
@options.device
@options.amp
def demo(model: str, port: int, host: str, max_mb: int, folds: list[int], device: str | None, amp: str | None) -> None:
    """Serve a page that answers for images: probabilities, how sure they are, each head's own, and Grad-CAM.

    MODEL is a run folder (all its folds as an ensemble), a fold folder, local-dir:FOLDER, hf-hub:user/repo[@rev] or a
    FILE.onnx. Images are sent to this program only, and deleted as soon as they are answered. Ctrl-C ends it.

    \b
    Examples:
      cvrnet demo run
      cvrnet demo hf-hub:user/repo --port 8000
      cvrnet demo folds --host 0.0.0.0
    """
    import threading

    from cvrnet.demo.serving import check_port, page_name, running, until_interrupted
    from cvrnet.inference import Predictor

    check_port(host, port)
    predictor = Predictor.from_pretrained(model, device=device or "auto", dtype=amp or "auto", folds=folds)
    with until_interrupted(), running(predictor, page_name(model), host, port, max_mb) as address:
        say(f"{page_name(model)}: {address}   (Ctrl-C ends it)")
        if host not in ("127.0.0.1", "localhost", "::1"):
            say("Everybody who can reach this machine can use it.")
        say("Research software, not a medical device.")
        threading.Event().wait()
    say("\nEnded. No upload was kept.")
