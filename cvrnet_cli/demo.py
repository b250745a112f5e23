"""``cvrnet demo``."""

from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import say


@click.command(short_help="Serve a web page for a model on this machine.")
@click.argument("model")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, help="Port of the page.")
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for the network.",
)
@click.option("--max-mb", type=click.IntRange(1), default=64, help="Largest size of an upload, in megabytes.")
@click.option(
    "--allow-host",
    "allow_hosts",
    metavar="NAME",
    multiple=True,
    help="Another host name that browsers may use for the page, such as the name of a reverse proxy.",
)
@options.backend
@options.folds
@options.device
@options.amp
@options.any_body_part
def demo(model: str, host: str, amp: str, **settings: Any) -> None:
    """Serve a page that classifies images: probabilities, uncertainty, the probabilities of each head, and Grad-CAM.

    MODEL is a run folder (all its folds as an ensemble), a fold folder, local-dir:FOLDER, hf-hub:user/repo[@rev] or a
    FILE.onnx. The page sends images only to this program, which deletes each image after the prediction. Ctrl-C ends
    the program.

    \b
    Examples:
      cvrnet demo run
      cvrnet demo hf-hub:user/repo --port 8000
      cvrnet demo run --host 0.0.0.0
    """
    from cvrnet.demo import serve

    def on_ready(name: str, address: str) -> None:
        say(f"{name}: {address}   (Ctrl-C ends it)")
        if host not in ("127.0.0.1", "localhost", "::1"):
            say("Everybody who can reach this machine over the network can use the page.")
        say("Research software, not a medical device.")

    serve(model, host=host, dtype=amp, on_ready=on_ready, **settings)
    say("\nEnded. No upload was kept.")
