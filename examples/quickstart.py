"""Train, score and use a small CVR-Net on synthetic radiographs: a minute on a laptop.

python quickstart.py [EPOCHS]
"""

import sys

from cvrnet import Predictor
from cvrnet.data import read_records, write_phantoms
from cvrnet.training import TrainConfig
from cvrnet.workflows.train import train

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
manifest = write_phantoms("phantoms", 240, size=96)
config = TrainConfig(model="cvrnet_tiny", pretrained=False, img_size=96, epochs=epochs, lr=1e-3)
metrics = train(manifest, "run", config, overwrite=True)  # patients are never split
print(f"validation accuracy {metrics['val']['accuracy']:.2f}; the report is run/report.html")

record = read_records(manifest)[0]
(prediction,) = Predictor.from_pretrained("run")([record.path])
print(f"{record.name} is {record.label}, called {prediction.label} ({prediction.probabilities.max():.2f})")
