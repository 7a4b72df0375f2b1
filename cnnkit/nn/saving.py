"""Models in files: one safetensors file with the parameters and, in its metadata, the architecture."""

import os

from cnnkit.files import Path, read_tensors, write_tensors
from cnnkit.nn.architecture import from_json, to_json
from cnnkit.nn.layer import Layer

MODEL = "a cnnkit model"


def save_model(model: Layer, path: Path) -> None:
    """Write `model` to `path`; the work of `Layer.save`."""
    write_tensors(path, MODEL, model.state_dict(), {"architecture": to_json(model)})


def load(path: Path) -> Layer:
    """Read a model that `Layer.save` wrote.

    The file holds numbers and the names and arguments of cnnkit's own layers; reading it runs nothing else.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Layer

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, cut off or no model of cnnkit's, with what is wrong.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> model = nn.Sequential(nn.Dense(4, 3), nn.ReLU())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     model.save(path)
    ...     again = nn.load(path)
    >>> again
    Sequential(Dense(4, 3), ReLU())
    >>> x = np.ones((1, 4), dtype="float32")
    >>> bool((again(x) == model(x)).all())
    True
    """
    state, metadata = read_tensors(path, MODEL)
    try:
        model = from_json(metadata.get("architecture", ""))
        model.load_state_dict(state)
    except (TypeError, ValueError, MemoryError) as error:
        raise ValueError(f"{os.fspath(path)} holds no model that fits together: {error}") from error
    return model
