"""A model: text, logits, losses and routes."""
from __future__ import annotations

import ctypes
import os
from typing import Mapping, NamedTuple, Sequence

import numpy as np
from numpy.typing import NDArray

from ._handle import Handle
from ._library import CGenerateOptions, CLogitBias, CLossResult, CTraceStage, call, library
from ._text import Ids, decode, encode, ids_array, integer, path_bytes, routing_code
from .errors import InvalidArgumentError
from .generation import Generation
from .session import Session
from .tokenizer import Tokenizer


class ModelInfo(NamedTuple):
    vocab: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    max_tokens: int  # the longest sequence the model was made for
    params: int  # a tied head counted once
    routed_layers: int  # 0 for a plain model


class Loss(NamedTuple):
    loss: float  # mean over the predictions, nats
    predictions: int
    routed_fraction: float  # of (token, router) pairs


class RoutedLayer(NamedTuple):
    """One routed block, or attention or MLP of one."""

    layer: int  # from 0
    unit: str  # "attn" or "mlp" where these are routed apart, else ""
    selected: NDArray[np.int64]  # indices of the tokens that went through, ascending
    weights: NDArray[np.float32]  # the gate's value of each, by which its update is multiplied


class Trace(NamedTuple):
    """What was routed. tokens is the array that was given where it was int32; the others are read-only views of memory that stays as
    long as they do, and nothing overwrites it."""

    routing: str
    tokens: NDArray[np.int32]  # [T]
    loss: NDArray[np.float32]  # [T] nats of each token given those before it in its window; NaN for the first of a window
    layers: tuple[RoutedLayer, ...]  # in order of depth


class Model:
    """A model directory, loaded. It never changes: threads may share it. Model.load makes one.

    Where ids are taken, text (str or bytes) is too, and an int32 array is read where it is, without a copy. routing is "causal", what
    sampling does, or "topk", as in training: it sees the whole sequence. A plain model gives the same in both.
    """

    def __init__(self, handle: Handle):
        self._handle = handle
        with handle as m:
            described = library.fathom_model_describe(m)
        self.info = ModelInfo(*(getattr(described, name) for name in ModelInfo._fields))

    @classmethod
    def load(cls, directory: str | os.PathLike[str], threads: int = 0) -> Model:
        """config.json, model.safetensors and tokenizer.json of a directory. threads: of every call that computes with it, 0 = all processors.
        Raises NotFoundError, FormatError, UnsupportedError, OutOfMemoryError."""
        handle = Handle("model", library.fathom_model_free)
        call(library.fathom_model_load, path_bytes(directory), integer("threads", threads, 0, 2**31 - 1), ctypes.byref(handle.pointer))
        return cls(handle)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own; it keeps the model's memory."""
        handle = Handle("tokenizer", lambda pointer: None, self._handle)
        with self._handle as m:
            handle.pointer.value = library.fathom_model_tokenizer(m)
        if not handle.pointer:
            self._encode("")  # raises what is wrong with it
        return Tokenizer(handle)

    def encode(self, text: str | bytes) -> list[int]:
        """Token ids."""
        return self._encode(text).tolist()

    def decode(self, ids: Ids) -> str:
        """Their text; bytes that are not UTF-8 become U+FFFD."""
        with self._handle as m:
            return decode(lambda *rest: library.fathom_token_text(m, *rest), ids, self.info.vocab).decode("utf-8", "replace")

    def logits(self, ids: Ids | str | bytes, routing: str = "causal") -> NDArray[np.float32]:
        """float32 [T, V], the caller's own: after each of T tokens (1 to info.max_tokens) of one sequence."""
        array, code = self._ids(ids), routing_code(routing)
        # more tokens than the model takes are refused before a row is written
        rows = array.size if array.size <= self.info.max_tokens else 0
        out = np.empty((rows, self.info.vocab), np.float32)
        with self._handle as m:
            call(library.fathom_logits, m, array.ctypes.data, array.size, code, out.ctypes.data)
        return out

    def loss(self, ids: Ids | str | bytes, routing: str = "causal") -> Loss:
        """Mean cross-entropy in nats of tokens 1 to n - 1 given those before them, in windows of T = min(n - 1, info.max_tokens) tokens:
        what `fathom eval --seq-len T` reports."""
        array, code, result = self._ids(ids), routing_code(routing), CLossResult()
        with self._handle as m:
            call(library.fathom_loss, m, array.ctypes.data, array.size, code, ctypes.byref(result))
        return Loss(result.loss, result.predictions, result.routed_fraction)

    def route(self, ids: Ids | str | bytes, routing: str = "causal") -> Trace:
        """Which tokens went through which routed block, with which weight, in windows of info.max_tokens: what `fathom inspect --json`
        prints. InvalidArgumentError for a plain model."""
        array, code = self._ids(ids), routing_code(routing)
        trace = Handle("trace", library.fathom_trace_free)
        with self._handle as m:
            call(library.fathom_trace_new, m, array.ctypes.data, array.size, code, ctypes.byref(trace.pointer))
        layers, stage = [], CTraceStage()
        with trace as t:
            for i in range(library.fathom_trace_stages(t)):
                call(library.fathom_trace_get, t, i, ctypes.byref(stage))
                layers.append(RoutedLayer(stage.layer, stage.unit.decode(), trace.view(stage.selected, ctypes.c_int64, stage.count),
                                          trace.view(stage.weights, ctypes.c_float, stage.count)))
            loss = trace.view(library.fathom_trace_losses(t), ctypes.c_float, array.size)
        return Trace(routing, array, loss, tuple(layers))

    def generate(self, prompt: str | bytes, *, max_tokens: int = 128, temperature: float = 0.8, top_k: int = 0, top_p: float = 1.0,
                 min_p: float = 0.0, seed: int = 1, stop: str | Sequence[str] = (), budget: float = 0.0, presence_penalty: float = 0.0,
                 frequency_penalty: float = 0.0, logit_bias: Mapping[int, float] | None = None) -> Generation:
        """Continues the prompt: an iterator of pieces of text, whole characters each.

        max_tokens: new tokens at most; the text ends where info.max_tokens is reached. temperature: 0 = the likeliest token each time. top_k: sample among so many likeliest, 0 = off;
        top_p: among the likeliest with that probability together; min_p: drop tokens below min_p times the likeliest one's probability.
        stop: end before any of these texts. budget: route this mean share of tokens, where `fathom calibrate` has prepared the model;
        0 = the model's own. presence_penalty (-2 to 2) is taken off the logit of every token that was generated, frequency_penalty as often
        as it was; logit_bias maps ids to what is added to their logits, -inf: never. The same seed gives the same text.
        """
        texts = [text.encode() for text in ([stop] if isinstance(stop, str) else stop)]
        if any(b"\0" in text for text in texts):
            raise InvalidArgumentError("stop: a stop text has no NUL")
        biases = [(integer("logit_bias", id, 0, 2**31 - 1), bias) for id, bias in (logit_bias or {}).items()]
        options = CGenerateOptions(
            max_tokens=integer("max_tokens", max_tokens, 1, 2**63 - 1), temperature=temperature,
            top_k=integer("top_k", top_k, 0, 2**31 - 1), top_p=top_p, min_p=min_p, seed=integer("seed", seed, 0, 2**64 - 1),
            stop=(ctypes.c_char_p * len(texts))(*texts), stop_count=len(texts), budget=budget,
            presence_penalty=presence_penalty, frequency_penalty=frequency_penalty, logit_bias=(CLogitBias * len(biases))(*biases),
            logit_bias_count=len(biases))
        return Generation(self._handle, prompt.encode() if isinstance(prompt, str) else bytes(prompt), options)

    def session(self, max_tokens: int = 0, budget: float = 0.0) -> Session:
        """A new sequence of at most max_tokens tokens, 0 = info.max_tokens; budget: Session.set_budget."""
        return Session(self._handle, self.info.vocab, max_tokens, budget)

    def close(self) -> None:
        """Gives the memory back, once sessions, generations and calls under way are done; so does forgetting the object."""
        self._handle.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _encode(self, text: str | bytes) -> NDArray[np.int32]:
        with self._handle as m:
            return encode(lambda *rest: library.fathom_encode(m, *rest), text)

    def _ids(self, ids: Ids | str | bytes) -> NDArray[np.int32]:
        return self._encode(ids) if isinstance(ids, (str, bytes)) else ids_array(ids)
