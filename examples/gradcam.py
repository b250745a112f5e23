"""Where does a trained network look? One figure as in the second paper, with the lesion outlined.

python gradcam.py RUN MANIFEST        (a manifest with lesion masks, such as that of `cvrnet phantoms`)
"""

import sys

from cvrnet import Predictor
from cvrnet.data import read_image, read_records
from cvrnet.explain import available_parts, explain
from cvrnet.explain.figure import plot_explanation
from cvrnet.figures import save_figure

run, manifest = sys.argv[1:3]
predictor = Predictor.from_pretrained(run)
records = [record for record in read_records(manifest) if record.lesion_mask]
parts = [part for part in available_parts(predictor) if not part.startswith("P")]  # network, encoders; P1...P5: heads

# The surest correct answer, as in the paper; where there is none, the surest.
explanations = list(explain(predictor, [record.path for record in records], parts=parts))
ranked = sorted(
    zip(records, explanations, strict=True),
    key=lambda pair: (pair[0].label == pair[1].prediction, pair[1].probability),
)
record, explanation = ranked[-1]
lesion = read_image(record.lesion_mask) > 0
save_figure(plot_explanation(explanation, parts, lesion=lesion), "explain.png")
print(f"{record.name}: {explanation.target} {explanation.probability:.2f}, figure in explain.png")
