"""Progress of whole jobs on stderr: a bar for each stage and epoch where stderr is a terminal, and a line an epoch."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from cvrnet_cli.output import progress_bar, say


@contextmanager
def job_callbacks(config: Any = None) -> Iterator[Any]:
    """``cvrnet.workflows.Callbacks`` that show bars and print lines; all bars are closed at the end.

    Args:
        config: The ``TrainConfig`` of a job that trains.
    """
    from cvrnet.workflows import Callbacks

    with ExitStack() as stack:

        def stage(name: str) -> Callable[[int, int], None]:
            return stack.enter_context(progress_bar(name))

        def training(name: str, fold: int) -> Any:
            if fold:
                say(f"{name}, fold {fold}" if name else f"fold {fold}")
            return stack.enter_context(epoch_bars(config))

        yield Callbacks(say=say, stage=stage, training=training)


@contextmanager
def epoch_bars(config: Any) -> Iterator[Any]:
    """``cvrnet.training.Progress`` of one training."""
    from tqdm import tqdm

    from cvrnet.training import Progress

    bar = tqdm(unit="image", disable=None, leave=False)

    def start(epoch: int, images: int, history: list[dict[str, Any]]) -> None:
        bar.reset(total=images)
        left = (config.epochs - epoch + 1) * sum(r["seconds"] for r in history) / len(history) if history else None
        so_far = f", {config.monitor} {history[-1][config.monitor]:.4f}" if history else ""
        at_most = f", at most {tqdm.format_interval(left)} left" if left else ""
        bar.set_description(f"Epoch {epoch}/{config.epochs}{so_far}{at_most}")

    def step(images: int, loss: Any) -> None:
        if bar.update(images):  # tqdm decides when to redraw; only then is the loss fetched from the device
            bar.set_postfix(loss=f"{loss():.4f}", refresh=False)

    def end(row: dict[str, Any]) -> None:
        bar.clear()
        say(
            f"epoch {row['epoch']:3d}/{config.epochs}  train_loss {row['train_loss']:.4f}  "
            f"val_loss {row['val_loss']:.4f}  val_accuracy {row['val_accuracy']:.4f}  lr {row['lr']:.1e}  "
            f"{row['seconds']:.0f} s" + ("  best" if row["best"] else "")
        )

    try:
        yield Progress(start=start, step=step, end=end)
    finally:
        bar.close()
