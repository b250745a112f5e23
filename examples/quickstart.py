"""Train a small CVR-Net on synthetic radiographs and predict one of them. This takes a minute on a laptop.

python quickstart.py [EPOCHS]
"""

import sys

from cvrnet import Predictor
from cvrnet.data import read_records, write_phantoms
from cvrnet.training import TrainConfig
from cvrnet.workflows import train

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
manifest = write_phantoms("phantoms", 240, size=96)
# Without ImageNet weights, a small network learns faster with a learning rate above the default of 1e-4.
config = TrainConfig(model="cvrnet_tiny", pretrained=False, img_size=96, epochs=epochs, lr=1e-3)
metrics = train(manifest, "run", config, overwrite=True)  # keeps a fifth of the patients for validation
print(f"validation accuracy {metrics['val']['accuracy']:.2f}; the report is run/report.html")

record = read_records(manifest)[0]
(prediction,) = Predictor.from_pretrained("run")([record.path])
print(f"{record.name} is {record.label}, predicted {prediction.label} ({prediction.probabilities.max():.2f})")
