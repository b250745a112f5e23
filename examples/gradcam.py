"""Draw Grad-CAM of one image as in the second paper, with the lesion outlined, and write it to explain.png.

python gradcam.py RUN MANIFEST

MANIFEST is a manifest with lesion masks (the column lesion_mask), such as the manifest that `cvrnet phantoms` writes.
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

# As in the paper, show the most confident correct prediction. If no prediction is correct, show the most confident one.
record, explanation = max(
    zip(records, explanations, strict=True),
    key=lambda pair: (pair[0].label == pair[1].prediction, pair[1].probability),
)
lesion = read_image(record.lesion_mask) > 0
save_figure(plot_explanation(explanation, parts, lesion=lesion), "explain.png")
print(f"{record.name}: {explanation.target} {explanation.probability:.2f}, figure in explain.png")
