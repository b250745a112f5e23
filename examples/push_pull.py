"""Push all folds of a run to the Hugging Face Hub, use them from there, and pull them back.

python push_pull.py RUN USER/REPO IMAGE

Log in first: hf auth login
"""

import sys

import timm

import cvrnet  # also registers the architecture, which timm needs to load the fold below

run, repository, image = sys.argv[1:4]
cvrnet.push_folds(run, repository)  # the repository is private; `cvrnet push --public` makes a public one

predictor = cvrnet.Predictor.from_pretrained(f"hf-hub:{repository}")  # all folds as an ensemble
(prediction,) = predictor([image])
print(prediction.label, prediction.probabilities.round(3), f"disagreement {prediction.mutual_information:.3f} nats")

model = timm.create_model(f"hf-hub:{repository}@fold-1", pretrained=True)  # a single fold, with timm
print(model.pretrained_cfg["label_names"], f"{sum(p.numel() for p in model.parameters()):,} parameters")

pulled = cvrnet.pull_folds(repository, "pulled")  # writes the run folder "pulled", which every command accepts
print("pulled", ", ".join(f"{branch} at {commit[:8]}" for branch, commit in pulled.folds.items()))
