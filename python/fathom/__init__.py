"""Mixture-of-Depths transformer language models: text, logits, losses and routes, over the fathom C library.

    import fathom

    with fathom.Model.load("run") as model:
        for piece in model.generate("Once upon a time", max_tokens=64):
            print(piece, end="", flush=True)

Threads: a Model and a Tokenizer never change and may be shared; a Session and a Generation serve one call at a time and make a
second one wait. Every call into the library lets other Python threads run. The library's threads do
not live on in the child of os.fork(); the child starts its own when it computes.

Signals are held back while the library computes (its header says why), so that Ctrl-C raises KeyboardInterrupt when the call under
way returns: generating, after one token.
"""
from ._library import VERSION as __version__
from .errors import (Error, FormatError, InputOutputError, InvalidArgumentError, NotFoundError, OutOfMemoryError, Status,
                     UnsupportedError)
from .generation import Generation, GenerationStats
from .model import Loss, Model, ModelInfo, RoutedLayer, Trace
from .session import Session
from .tokenizer import Tokenizer

__all__ = ["Error", "FormatError", "Generation", "GenerationStats", "InputOutputError", "InvalidArgumentError", "Loss", "Model",
           "ModelInfo", "NotFoundError", "OutOfMemoryError", "RoutedLayer", "Session", "Status", "Tokenizer", "Trace",
           "UnsupportedError", "__version__"]
