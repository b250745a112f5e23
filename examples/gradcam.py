"""Show where a trained network looks: one figure as in the second paper, with the lesion outlined.

python gradcam.py RUN MANIFEST

MANIFEST needs lesion masks, like that of `cvrnet phantoms`.
"""

import sys

from cvrnet import Predictor
from cvrnet.data import read_image, read_records
from cvrnet.explain import available_parts, explain
from cvrnet.explain.pictures import plot_explanation
from cvrnet.figures import save_figure

run, manifest = sys.argv[1:3]
predictor = Predictor.from_pretrained(run)
records = [record for record in read_records(manifest) if record.lesion_mask]
parts = [part for part in available_parts(predictor) if not part.startswith("P")]  # without the heads P1 to P5
explanations = explain(predictor, [record.path for record in records], parts=parts)

# As in the paper, show the most confident correct prediction; if none is correct, the most confident one.
record, explanation = max(
    zip(records, explanations, strict=True),
    key=lambda pair: (pair[0].label == pair[1].prediction, pair[1].probability),
)
lesion = read_image(record.lesion_mask) > 0
save_figure(plot_explanation(explanation, parts, lesion=lesion), "explain.png")
print(f"{record.name}: {explanation.target} {explanation.probability:.2f}, figure in explain.png")
