"""Fine-tune on your own radiographs by the papers' protocol: five folds, each image tested once.

python finetune_manifest.py MANIFEST RUN ['{"epochs": 50, "img_size": 128}']

MANIFEST is a CSV with the columns path,label and, where known, source,patient_id. Settings are those of
`cvrnet.training.TrainConfig`. A run that was interrupted goes on.
"""

import json
import sys

from cvrnet.training import Progress, TrainConfig
from cvrnet.workflows import Callbacks, cross_validate
from cvrnet.workflows.collect import summary_rows

manifest, run, *settings = sys.argv[1:4]
config = TrainConfig(**json.loads(settings[0] if settings else "{}"))


def progress(name: str, fold: int) -> Progress:
    """Print one line for each epoch."""
    return Progress(end=lambda row: print(f"fold {fold}, epoch {row['epoch']}: val_loss {row['val_loss']:.3f}"))


summary = cross_validate(manifest, run, config, resume=True, callbacks=Callbacks(training=progress))
for row in summary_rows(summary):  # the papers' table; run/report.html has it with everything else
    print(row)
