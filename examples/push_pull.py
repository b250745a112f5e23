"""A run on the Hugging Face Hub: push all folds, use them from anywhere, pull them back.

python push_pull.py RUN USER/REPO IMAGE        (log in first: hf auth login)
"""

import sys

import timm

import cvrnet

run, repository, image = sys.argv[1:4]
cvrnet.push_folds(run, repository)  # private; cvrnet push --public for everybody

predictor = cvrnet.Predictor.from_pretrained(f"hf-hub:{repository}")  # all folds, as an ensemble
(prediction,) = predictor([image])
print(prediction.label, prediction.probabilities.round(3), f"disagreement {prediction.mutual_information:.3f} nats")

model = timm.create_model(f"hf-hub:{repository}@fold-1", pretrained=True)  # one fold, by timm alone
print(model.pretrained_cfg["label_names"], f"{sum(p.numel() for p in model.parameters()):,} parameters")

pulled = cvrnet.pull_folds(repository, "pulled")  # a run that every command takes
print("pulled", ", ".join(f"{branch} at {commit[:8]}" for branch, commit in pulled.folds.items()))
