"""TensorFlow and Keras models in."""

from anychip.frontends.tensorflow.load import load_tensorflow

__all__ = ["load_tensorflow"]
