"""Finds models and weights by name: a model of the library, a folder, or an id of the Hugging Face hub.

What comes from the hub goes into its own cache (`HF_HOME`), and is kept there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from tokenwatt.architecture import Architecture
from tokenwatt.errors import UserError
from tokenwatt.model_config import load_architecture, locate

WEIGHTS = ("*.safetensors", "*.json")
CONFIG = ("config.json",)
DUPLICATES = ("*/*", "consolidated*")
"""The same weights once more, as publishers add them: in folders (`original/`, `metal/`), or in one file."""

_PART = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
_ID = re.compile(f"{_PART}/{_PART}", re.ASCII)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of an id.

    >>> is_hub_id("Qwen/Qwen3-0.6B"), is_hub_id("./weights"), is_hub_id("/data/qwen"), is_hub_id("qwen")
    (True, False, False, False)
    """
    return _ID.fullmatch(name) is not None


def find_architecture(model: str | None, weights: str, engine: str = "native") -> Architecture:
    """The architecture of a model of the library, of a folder, or of an id, whose `config.json` alone is fetched.

    model: None means that of the weights. engine: who asks. The architecture bears the name that was asked for.

    Raises:
        UserError: no model is named, there is none of that name, or tokenwatt does not run it.
    """
    if model is not None and (locate(model) is not None or not is_hub_id(model)):
        return load_architecture(model)
    if model is not None:
        folder = fetch(model, CONFIG, "give a model of the library, or a folder with its config.json")
        return replace(load_architecture(str(folder)), name=model)
    if weights == "random":
        raise UserError(
            f"engine {engine!r} needs a model: the name of a folder under workloads/models/, a path, or a hub id"
        )
    folder = _find(weights, CONFIG)
    if not folder.is_dir():
        raise _no_folder(weights)
    return replace(load_architecture(str(folder.absolute())), name=weights)


def find_weights(weights: str) -> Path:
    """The folder of saved weights: `weights` itself if it is one, or what the hub has under that id.

    Raises:
        UserError: neither.
    """
    folder = _find(weights, WEIGHTS)
    if not folder.is_dir():
        raise _no_folder(weights)
    return folder


def _find(weights: str, patterns: tuple[str, ...]) -> Path:
    folder = Path(weights)
    if folder.is_dir() or not is_hub_id(weights):
        return folder
    return fetch(weights, patterns, 'give a folder, or weights = "random"')


def _no_folder(weights: str) -> UserError:
    return UserError(
        f"no such weights folder: {weights}; allowed: 'random', a folder with safetensors, a hub id such as org/name"
    )


def fetch(hub_id: str, patterns: tuple[str, ...], otherwise: str) -> Path:
    """A folder with those files of a model that match `patterns`.

    Without the hub, what an earlier call has fetched serves too, if it is all there. otherwise: what else to do.

    Raises:
        UserError: no such model, one that asks for consent, or a hub that cannot be reached.
    """
    if find_spec("huggingface_hub") is None:
        raise UserError(f"there is no folder {hub_id}, and the hub needs: pip install 'tokenwatt[bench]'; {otherwise}")
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

    try:
        # `snapshot_download` waits for a hub that does not answer as long as the system does, which is minutes.
        HfApi().model_info(hub_id, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        return Path(snapshot_download(hub_id, allow_patterns=[*patterns], ignore_patterns=[*DUPLICATES]))
    except GatedRepoError:
        why = "is gated: accept its terms on its page and log in (`hf auth login`)"
    except RepositoryNotFoundError:
        why = "is not on the hub, or is private: check the id, or log in (`hf auth login`)"
    except HfHubHTTPError as error:
        return _cached(hub_id, patterns, f"the hub answers {error.response.status_code}", otherwise)
    except (HTTPError, OSError) as error:  # HTTPError: no connection. OSError: HF_HUB_OFFLINE, a full disk
        return _cached(hub_id, patterns, _first_line(error), otherwise)
    raise UserError(f"there is no folder {hub_id}, and the model of that id {why}; or {otherwise}")


def _cached(hub_id: str, patterns: tuple[str, ...], why: str, otherwise: str) -> Path:
    """What the hub's cache has, if it is all there; why: it could not be fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            hub_id, local_files_only=True, allow_patterns=[*patterns], ignore_patterns=[*DUPLICATES]
        )
    except LocalEntryNotFoundError:
        raise UserError(
            f"there is no folder {hub_id}, and the model of that id can neither be fetched ({why}) nor is it complete"
            f" in the hub's cache; {otherwise}"
        ) from None
    return Path(folder)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
