"""Cross-validate on your own radiographs by the papers' protocol: five folds, and each image is tested once.

python finetune_manifest.py MANIFEST RUN ['{"epochs": 50, "img_size": 128}']

MANIFEST is a CSV file with the columns path,label and, if known, source,patient_id. RUN is the output folder. The JSON
text contains arguments of `cvrnet.training.TrainConfig`. If a run was interrupted, the same command continues it.
"""

import json
import sys

from cvrnet.training import Progress, TrainConfig
from cvrnet.workflows import Callbacks, cross_validate
from cvrnet.workflows.collect import summary_rows

manifest, run, *settings = sys.argv[1:4]
config = TrainConfig(**json.loads(settings[0] if settings else "{}"))


def progress(name: str, fold: int) -> Progress:
    """Return callbacks that print one line after each epoch of a fold."""
    return Progress(end=lambda row: print(f"fold {fold}, epoch {row['epoch']}: val_loss {row['val_loss']:.3f}"))


callbacks = Callbacks(training=progress)
summary = cross_validate(manifest, run, config, resume=True, callbacks=callbacks)  # also writes RUN/report.html
for row in summary_rows(summary):  # one row per fold, and the mean
    print(row)
