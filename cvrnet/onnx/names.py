"""The names of the inputs and outputs of the ONNX files that ``cvrnet export`` writes."""

INPUT, LOGITS, HEADS, DISTANCES = "pixels", "logits", "head_logits", "distances"
