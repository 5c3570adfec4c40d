"""The weights of a network in a file of their own, so that the page can change them: it has a LoRA for the UNet.

The graph keeps only where each weight stands. The page reads the numbers in float16, expands them to float32, and for the fast mode
adds to each layer's matrix W the product left · right (see program/weights.js). The files hold them as byte planes.
"""

import numpy as np
from onnx import ModelProto, numpy_helper
from onnx.external_data_helper import set_external_data

from minisd.adapters.lora import layers_of, loras_of

FILE = "weights"  # its name inside the graph


def move_out(model: ModelProto) -> np.ndarray:
    """The weights of a graph in float16, one after another; the graph then refers to them, as float32 in FILE.

    Short tensors stay in the graph, and those that float16 cannot hold.
    """
    numbers, at = [], 0
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight).ravel()
        if array.dtype == np.float32 and array.size >= 64 and np.array_equal(array, array.astype(np.float16)):
            numbers.append(array.astype(np.float16))
            weight.raw_data = array.tobytes()  # the form that set_external_data expects
            set_external_data(weight, FILE, offset=4 * at, length=4 * array.size)
            weight.ClearField("raw_data")
            at += array.size
    return np.concatenate(numbers)


def low_rank(unet, model: ModelProto, weights: np.ndarray) -> tuple[dict, np.ndarray]:
    """The LoRA attached to a UNet, as changes of the numbers in FILE.

    Returns the rank with [offset, rows, columns] of each layer, and all factors in float16: for each layer left (rows, rank), then
    right (rank, columns). The tracer transposes some matrices and renames them, so layers are found by their numbers.
    """
    places = {}
    for weight in model.graph.initializer:
        if where := {entry.key: entry.value for entry in weight.external_data}:
            at, size = int(where["offset"]) // 4, int(where["length"]) // 4
            places[weights[at : at + size].tobytes()] = at
    layers, factors = [], []
    for layer in layers_of(unet).values():
        (lora,) = loras_of(layer)
        assert lora.scale * lora.alpha == lora.rank, "the page adds LoRAs as they are"
        matrix, left, right = (half(one) for one in (layer.weight, lora.up.weight, lora.down.weight))
        if matrix.tobytes() not in places:
            matrix, left, right = matrix.T, right.T, left.T
        layers.append([places[matrix.tobytes()], *matrix.shape])
        factors += [left.ravel(), right.ravel()]
    return {"rank": lora.rank, "layers": layers}, np.concatenate(factors)


def planes(numbers: np.ndarray) -> bytes:
    """Numbers in float16 as their low bytes, then their high bytes.

    The high bytes have the sign and the exponent, which repeat; the low bytes are noise. Apart, they compress 7 % better.
    """
    return numbers.astype("<f2").view(np.uint8).reshape(-1, 2).T.tobytes()


def half(weight) -> np.ndarray:
    """A layer's weight as a matrix in float16: (out, in · kernel)."""
    return weight.detach().flatten(1).numpy().astype(np.float16)
