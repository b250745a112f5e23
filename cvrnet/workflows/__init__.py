"""Functions that run a whole job, from a data set to a folder with results and a report (extra ``train``).

Several jobs share these arguments:

- ``data``: Folder with one sub-folder per class, or CSV manifest.
- ``output``: The folder to write to. The description of each job names the files in it.
- ``config``: The training protocol, `cvrnet.training.TrainConfig`.
- ``n_folds``: Number of folds to make, at least 3.
- ``classes``: The class names in the order of the model's outputs; alphabetical if not given.
- ``test_source``: A source (hospital or collection) that is not used to train or validate. Its images are the set
  ``independent``. Without a test source, this set has the images whose ``split`` is ``test`` (see
  `cvrnet.data.splits`).
- ``split_from``: The split.csv of an earlier cross-validation. Its folds are used instead of new folds.
- ``audit``: Audit the data set first (extra ``audit``), and show the audit's results in the report.
- ``maps``: Show Grad-CAM maps of some images in the report.
- ``resume``: Continue the job in the folder. The data, the split and the settings must be the same as before, but
  ``epochs`` may be larger, and ``device``, ``num_workers`` and ``compile`` may differ.
- ``overwrite``: Replace an earlier run of the same kind in the folder when the new run is complete. Until then, the new
  run is in ``.NAME.cvrnet-new`` beside the folder ``NAME``, where ``resume`` finds it.
- ``cache_folder``: The folder to store decoded images in. Each image is decoded only once for a whole job.
- ``log``: Also report each epoch to ``tensorboard``, ``wandb`` or ``trackio``. A resumed run may use another value.
- ``device``, ``amp``: The device and the number format of the computations, as in `cvrnet.Predictor`.
- ``backend``: ``torch``, ``openvino``, ``onnxruntime`` or ``auto``, as in `cvrnet.Predictor.from_pretrained`.
- ``any_body_part``: Read DICOM files of any part of the body, not only of the chest.
- ``batch_size``: Images per batch.
- ``callbacks``: `Callbacks` for progress and messages.

A job checks its arguments before it trains anything. It raises `cvrnet.data.DataError` if the data set has errors; the
message lists all of them. It raises `cvrnet.errors.UserError` if ``output`` has files that may not be replaced, or if a
setting does not fit the data. Under ``accelerate launch``, jobs that train return the result on the main process, and
``{}`` on the other processes.

The first and the second CVR-Net paper are arXiv 2007.11993 and medRxiv 2020.11.07.20227504.
"""

from cvrnet.workflows.calibrate import calibrate
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.collect import collect
from cvrnet.workflows.compare import compare
from cvrnet.workflows.crossval import cross_validate
from cvrnet.workflows.evaluate import evaluate
from cvrnet.workflows.pages import finish_report
from cvrnet.workflows.soup import make_soup
from cvrnet.workflows.sweep import benchmark, leave_one_source_out
from cvrnet.workflows.train import train

__all__ = [
    "Callbacks",
    "benchmark",
    "calibrate",
    "collect",
    "compare",
    "cross_validate",
    "evaluate",
    "finish_report",
    "leave_one_source_out",
    "make_soup",
    "train",
]
