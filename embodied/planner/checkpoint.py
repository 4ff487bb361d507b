"""Finds and loads a vision-language checkpoint: a folder, or the name of a model on the Hugging Face hub.

Only safetensors are read, and no code that comes with a checkpoint is run. A name is looked up in the Hugging Face cache
and downloaded when it is not there; with HF_HUB_OFFLINE=1, or without a network, only the cache counts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hardware.errors import CheckpointError

Device = Literal["auto", "cpu", "cuda", "mps"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
#: Parameters below which a model is slower on a GPU than on one core, and needs all its digits.
SMALL = 20_000_000
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
_DOWNLOAD = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint before its weights are read: folder, ``config.json`` and tokenizer."""

    folder: Path
    config: dict[str, Any]
    tokenizer: Any


def open_checkpoint(where: Path | str) -> Checkpoint:
    """The checkpoint in a folder or of a hub name.

    Raises ``CheckpointError`` in one sentence for what is missing, damaged, or of a wrong kind.
    """
    folder = find_folder(where)
    missing = _missing(folder)
    if missing:
        raise CheckpointError(
            f"no planner in {folder}: {', '.join(missing)} missing; name another folder with --planner, "
            "or train one with: embodied train planner"
        )
    config = _read_config(folder)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file raises, the user needs the same sentence
        raise _unreadable(folder, error) from error
    return Checkpoint(folder, config, tokenizer)


def load_model(folder: Path, *, device: Device = "auto", dtype: DType = "auto") -> Any:
    """The model in ``folder``, ready to answer.

    ``auto`` is a GPU and bfloat16 where there is one, else the CPU and float32; models under 20 M parameters stay on
    the CPU in float32. Raises ``CheckpointError`` for damaged weights and for a device that is not there.
    """
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    small = sum(path.stat().st_size for path in folder.glob("*.safetensors")) < 4 * SMALL
    chosen_device, chosen_dtype = _choose(device, dtype, small=small)
    logging.disable_progress_bar()
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, dtype=chosen_dtype, trust_remote_code=False, use_safetensors=True
        )
        model = model.to(chosen_device).eval()
    except Exception as error:  # as above
        raise _unreadable(folder, error) from error
    if small:
        # Matrices this small gain nothing from a second thread, and lose much when another process wants its core.
        torch.set_num_threads(1)
    return model


def _unreadable(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the planner in {folder} cannot be read ({type(error).__name__}: {str(error)[:120]}); "
        "restore the folder or train a new one with: embodied train planner"
    )


def find_folder(where: Path | str) -> Path:
    """The folder of a checkpoint; a hub name is looked up in the cache, and downloaded when that is possible."""
    folder = Path(where)
    if folder.is_dir():
        return folder
    # A name whose first half is a folder here is a mistyped path: nobody on the hub needs to hear of it.
    if folder.exists() or folder.parent.is_dir() or not _HUB_NAME.fullmatch(str(where)):
        raise CheckpointError(
            f"{where} is neither a folder with a model nor a name like Qwen/Qwen3-VL-2B-Instruct on the Hugging Face "
            "hub; give one of them with --planner"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(str(where), allow_patterns=list(_DOWNLOAD)))
    except GatedRepoError as error:
        raise CheckpointError(
            f"the model {where} asks for its licence to be accepted: do so on its page, then run: hf auth login"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"there is no folder {where}, and no model of that name on the Hugging Face hub; check the spelling"
        ) from error
    except Exception as error:  # cache misses, broken connections, proxies: of four libraries, and all mean the same
        raise CheckpointError(
            f"there is no folder {where}, the model of that name is not (whole) in the Hugging Face cache, and it cannot "
            f"be fetched now ({type(error).__name__}; no network, or HF_HUB_OFFLINE is set); where there is a network "
            f"run: hf download {where}, then copy that cache here or point HF_HOME at it"
        ) from error


def _missing(folder: Path) -> list[str]:
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            parts = ["model.safetensors.index.json (damaged)"]
        missing += [part for part in parts if not (folder / part).is_file()]
    elif not any(folder.glob("*.safetensors")):
        only = "pytorch_model.bin is there, but holds code that would be run; "
        pickled = any(folder.glob("pytorch_model*.bin"))
        missing.append(f"model.safetensors ({only}convert it)" if pickled else "model.safetensors")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        missing.append("tokenizer.json")
    return missing


def _read_config(folder: Path) -> dict[str, Any]:
    """``config.json``, of an architecture that takes pictures and that the installed transformers knows."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        family = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the planner in {folder} cannot be read (config.json is damaged or names no model_type); restore the "
            "folder or train a new one with: embodied train planner"
        ) from error
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if family in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and not config.get("is_encoder_decoder"):
        return dict(config)
    if family in transformers.CONFIG_MAPPING:
        why = f"is a {family} model, which does not answer about pictures in words"
        raise CheckpointError(f"{folder} {why}; use an image-text-to-text model such as Qwen3-VL")
    raise CheckpointError(
        f"{folder} is of the architecture {family!r}, which transformers {transformers.__version__} does not know; "
        "update transformers (pip install -U transformers) or use another model"
    )


def _choose(device: Device, dtype: DType, *, small: bool) -> tuple[str, Any]:
    import torch

    if device not in ("auto", "cpu", "cuda", "mps"):
        raise CheckpointError(f"there is no device called {device!r}; choose auto, cpu, cuda or mps")
    if device == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("torch sees no CUDA GPU on this machine; use --device cpu or auto")
    if device == "mps" and not torch.backends.mps.is_available():
        raise CheckpointError("torch sees no Apple GPU on this machine; use --device cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and not small else "cpu"
    if dtype == "auto":
        return device, torch.bfloat16 if device == "cuda" and not small else torch.float32
    chosen = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.get(dtype)
    if chosen is None:
        raise CheckpointError(f"there is no number type called {dtype!r}; choose auto, float32, bfloat16 or float16")
    return device, chosen
