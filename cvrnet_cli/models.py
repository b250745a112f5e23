"""``cvrnet models``."""

import click

from cvrnet_cli import options
from cvrnet_cli.output import print_rows, say


@click.command(short_help="List the registered models, or describe one of them.")
@click.argument("name", required=False)
@options.style
def models(name: str | None, style: str) -> None:
    """List the registered models with encoders, parameters, feature maps, and multiply-adds at 224 x 224 pixels.

    The column pretrained says where the encoders' ImageNet weights are: "here" (in an installed package, or in the
    cache of the Hugging Face Hub), "Hub" (on the Hub), a pip command (in the package that this command installs), or
    "-" (nowhere). With NAME, list the heads of this model.

    In cvrnet train, --encoders selects other encoders: timm names, hf-hub:user/repo or local-dir:FOLDER.

    \b
    Examples:
      cvrnet models
      cvrnet models cvrnet
    """
    from cvrnet import list_models
    from cvrnet.model_info import describe_model

    if name is None:
        rows = [
            {
                "model": info.name,
                "encoders": " + ".join(info.encoders),
                "parameters_M": round(info.parameters / 1e6, 2),
                "GMACs": round(info.macs / 1e9, 2),
                "pretrained": info.pretrained,
                "maps": " ".join(f"{head.channels}@{head.grid[0]}x{head.grid[1]}" for head in info.heads),
            }
            for info in map(describe_model, list_models())
        ]
        return print_rows(rows, style=style)
    info = describe_model(name)
    rows = [
        {
            "head": head.name,
            "feature_map": " ++ ".join(head.maps),
            "channels": head.channels,
            "grid": f"{head.grid[0]}x{head.grid[1]}",
            "parameters": head.parameters,
        }
        for head in info.heads
    ]
    print_rows(rows, style=style)
    say(
        f"\n{info.name}: {info.description}\n"
        f"{info.parameters:,} trainable parameters (3 classes), {info.statistics:,} running statistics, "
        f"{info.macs / 1e9:.2f} GMACs at {info.input_size[1]} x {info.input_size[2]}"
    )
