"""What every child of the zoo needs, imported once in the process they are forked from."""

import zoo_torchvision

_LIBRARY = zoo_torchvision.declare()

import jax  # noqa: E402, F401
import timm  # noqa: E402, F401
import torch.export  # noqa: E402, F401
import transformers  # noqa: E402, F401

import anychip.frontends.torch.program  # noqa: E402, F401
