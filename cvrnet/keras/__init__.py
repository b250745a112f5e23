"""Load and convert Keras 2.3.1 checkpoints of the CVR-Net papers' authors, and count parameters as Keras does.

See docs/keras.md. The first and the second CVR-Net paper are arXiv 2007.11993 and medRxiv 2020.11.07.20227504.
"""

from cvrnet.keras.convert import convert_keras, load_keras
from cvrnet.keras.parameters import keras_parameter_counts

__all__ = ["convert_keras", "keras_parameter_counts", "load_keras"]
