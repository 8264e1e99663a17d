"""Vision-language late-interaction models: a page image, or a query, → a vector a token.

ColPali (Faysse et al. 2024, arXiv 2407.01449), ColQwen2 and ColModernVBert are classes of transformers. ColIdefics3
(the ColSmol models) is Idefics3 under a projection named `linear`; its published folders are adapters over a base.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lodesmith.core.errors import InputError, LodesmithError, MissingExtraError
from lodesmith.core.files import read_object
from lodesmith.encoders._identity import VOLATILE, plain
from lodesmith.encoders._loading import find_model, loading

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ColIdefics3", "PageModel", "is_pages", "load_pages"]

_OF_TRANSFORMERS = ("ColPaliForRetrieval", "ColQwen2ForRetrieval", "ColModernVBertForRetrieval")
_IDEFICS = "ColIdefics3"
_ADAPTER = "adapter_config.json"
_DESCRIBE, _QUERY = "Describe the image.", "Query: "
_AUGMENTATION = "<end_of_utterance>" * 10
"""What the ColSmol models have behind each query: tokens whose vectors count too."""


class ColIdefics3(nn.Module):
    """Idefics3 whose token states go through a projection to vectors of length 1.

    Args:
        config: an `Idefics3Config`.
        dimension: of the vectors; 128 in the published models.
    """

    def __init__(self, config: Any, dimension: int = 128) -> None:
        super().__init__()
        from transformers import Idefics3Model

        self.config = config
        self.model = Idefics3Model(config)
        self.linear = nn.Linear(config.text_config.hidden_size, dimension)

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> ColIdefics3:
        """From a folder with config.json and safetensors.

        Raises:
            InputError: the weights are not those of the model.
        """
        from safetensors.torch import load_file
        from transformers import Idefics3Config

        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise InputError("the folder has no weights", "fetch it again, whole", path=folder)
        state = {name: value for file in files for name, value in load_file(file).items()}
        if (weight := state.get("linear.weight")) is None:
            raise InputError("the weights have no projection 'linear'", "it is no ColIdefics3", path=folder)
        made = cls(Idefics3Config.from_pretrained(folder), len(weight))
        missing, unknown = made.load_state_dict(state, strict=False)
        if missing or unknown:
            raise InputError(
                f"the weights do not fit: {len(missing)} missing ({', '.join(missing[:2])}), {len(unknown)} unknown "
                f"({', '.join(unknown[:2])})",
                "its files may be of another model",
                path=folder,
            )
        return made.to(dtype)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors."""
        from safetensors.torch import save_file

        self.config.architectures = [_IDEFICS]
        self.config.save_pretrained(str(folder))
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(state, str(Path(folder) / "model.safetensors"), metadata={"format": "pt"})

    def forward(self, **features: Tensor) -> Tensor:
        """[n, tokens, d] of what the processor made; rows of padding are 0."""
        states = self.model(**features)[0]
        vectors = nn.functional.normalize(self.linear(states.to(self.linear.weight.dtype)), dim=-1)
        return vectors * features["attention_mask"][..., None].to(vectors.dtype)


class PageModel:
    """A model and its processor, one item at a time: nothing is padded, and no vector depends on a batch.

    Args:
        model: gives vectors of the processor's features.
        processor: of images and queries.
    """

    def __init__(self, model: nn.Module, processor: Any) -> None:
        self.model, self.processor = model.eval(), processor
        self._forms: Mapping[str, Callable[[Any], Any]] = (
            {"document": self._described, "query": self._asked}
            if isinstance(model, ColIdefics3)
            else {
                "document": lambda image: processor.process_images([image]),
                "query": lambda text: processor.process_queries([text]),
            }
        )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    @property
    def dimension(self) -> int:
        """d of a token's vector."""
        return int(self.projection.out_features)

    @property
    def projection(self) -> nn.Linear:
        """From the states of tokens to their vectors."""
        own: Any = self.model.linear if isinstance(self.model, ColIdefics3) else self.model.embedding_proj_layer
        layer: nn.Linear = own.get_base_layer() if hasattr(own, "get_base_layer") else own
        return layer

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but the weights that vectors are made from, as JSON."""
        tokenizer = self.processor.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        config: Any = self.model.config
        return {
            "config": plain({key: value for key, value in config.to_dict().items() if key not in VOLATILE}),
            "processor": repr(sorted(self.processor.to_dict().items(), key=str)),
            "tokenizer": "" if backend is None else hashlib.sha256(backend.to_str().encode()).hexdigest(),
            "template": str(getattr(self.processor, "chat_template", None) or getattr(tokenizer, "chat_template", "")),
            "prompts": [_DESCRIBE, _QUERY, _AUGMENTATION] if isinstance(self.model, ColIdefics3) else [],
        }

    def save(self, folder: Path) -> None:
        """Write model and processor into a folder that is there."""
        model: Any = self.model
        model.save_pretrained(str(folder))
        self.processor.save_pretrained(str(folder))

    def features(self, item: Image | str) -> dict[str, Tensor]:
        """What the model reads of a page image or a query."""
        try:
            made = self._forms["query" if isinstance(item, str) else "document"](item)
        except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
            kind = "query" if isinstance(item, str) else f"page of {item.width} × {item.height} pixels"
            raise InputError(f"the model's processor refuses a {kind}: {error}", "leave it out, or redraw it") from None
        tensors = {name: value for name, value in made.items() if isinstance(value, Tensor) and name != "labels"}
        return {name: value.to(self.device) for name, value in tensors.items()}

    def __call__(self, item: Image | str) -> Tensor:
        """The vectors [tokens, d] of an item, in float32."""
        return self.vectors(self.features(item))[0]

    def vectors(self, features: Mapping[str, Tensor]) -> Tensor:
        """The vectors [n, tokens, d] of n items of one shape, in float32."""
        found = self.model(**features)
        vectors: Tensor = found if isinstance(found, Tensor) else found.embeddings
        return vectors.float()

    def _described(self, image: Image) -> Any:
        text = self._chat([{"type": "text", "text": _DESCRIBE}, {"type": "image"}])
        return self.processor(text=[text], images=[[image]], return_tensors="pt")

    def _asked(self, query: str) -> Any:
        text = self._chat([{"type": "text", "text": f"{_QUERY}{query}{_AUGMENTATION}"}])
        return self.processor(text=[text], return_tensors="pt")

    def _chat(self, content: Sequence[Mapping[str, str]]) -> str:
        asked = [{"role": "user", "content": list(content)}]
        return str(self.processor.apply_chat_template(asked, add_generation_prompt=False)).strip()


def is_pages(folder: Path) -> bool:
    """Whether a model folder, or the base of an adapter, reads page images."""
    return _kind(folder) is not None or ((folder / _ADAPTER).is_file() and _adapts_pages(folder))


def _kind(folder: Path) -> str | None:
    config = folder / "config.json"
    named = read_object(config).get("architectures") if config.is_file() else None
    listed = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    return next((name for name in (*_OF_TRANSFORMERS, _IDEFICS) if name in listed), None)


def _adapts_pages(folder: Path) -> bool:
    """By the base, where it is here; the published adapters say of themselves what they are for."""
    told = read_object(folder / _ADAPTER)
    base = str(told.get("base_model_name_or_path") or "")
    place = _beside(folder, base)
    known = place is not None and _kind(place) is not None
    return known or any(name in base.lower() for name in ("colsmol", "colpali", "colqwen", "colmodernvbert"))


def _beside(folder: Path, base: str) -> Path | None:
    """An adapter's base as a folder: where the path says, or beside the adapter."""
    return next((place for place in (Path(base), folder / base, folder.parent / base) if base and place.is_dir()), None)


def load_pages(folder: Path, *, device: str | None = None, dtype: torch.dtype = torch.float32) -> PageModel:
    """The model of a folder: whole weights, or an adapter over its base, which is merged into it.

    Args:
        folder: with config.json, or with adapter_config.json.
        device: None for CUDA where there is one, else the CPU.
        dtype: of the weights.

    Raises:
        InputError: it does not load, or is no model of page images.
        MissingExtraError: a package for it is not installed.
    """
    _need("PIL", "pillow", "pdf")
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with loading(folder):
            model = _adapted(folder, dtype) if (folder / _ADAPTER).is_file() else _whole(folder, dtype)
            made = PageModel(model.to(place), _processor(folder))
            made.features("a query")
            _ = made.settings
    except LodesmithError:
        raise
    except Exception as error:  # of damaged configurations, whatever their classes make of them
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"the model does not load: {reason}", "fetch or save it again", path=folder) from error
    return made


def _adapted(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The base of an adapter, with the adapter merged into it.

    Raises:
        InputError: the adapter's weights are no safetensors, or not all of them find their place.
    """
    _need("peft", "peft", "lora")
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise InputError("the adapter has no adapter_model.safetensors", "fetch it again", path=folder)
    model = PeftModel.from_pretrained(_whole(_base(folder), dtype), str(folder), torch_device="cpu")
    with safe_open(str(weights), "pt") as file:
        there = set(file.keys())
    wanted = set(get_peft_model_state_dict(model))
    if there != wanted:
        missing, unknown = sorted(wanted - there), sorted(there - wanted)
        raise InputError(
            f"the adapter does not fit its base: {len(missing)} of its weights are missing ({', '.join(missing[:1])}), "
            f"{len(unknown)} are unknown ({', '.join(unknown[:1])})",
            "it may be of another version of the model's class",
            path=folder,
        )
    merged: nn.Module = model.merge_and_unload()
    return merged


def _base(folder: Path) -> Path:
    """The model under an adapter.

    Raises:
        InputError: the adapter names none, or it is not here.
    """
    named = read_object(folder / _ADAPTER).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise InputError("the adapter names no base model", "fetch it again", path=folder / _ADAPTER)
    return find_model(_beside(folder, named) or named)


def _need(module: str, package: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(package, extra)


def _whole(folder: Path, dtype: torch.dtype) -> nn.Module:
    import transformers

    kind = _kind(folder)
    if kind is None:
        raise InputError(
            "no model of page images that is known here",
            f"choose one of {', '.join((*_OF_TRANSFORMERS, _IDEFICS))}",
            path=folder,
        )
    if kind == _IDEFICS:
        return ColIdefics3.load(folder, dtype)
    made: nn.Module = getattr(transformers, kind).from_pretrained(
        str(folder), dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    return made


def _processor(folder: Path) -> Any:
    """Of the folder itself, or of an adapter's base where it has none."""
    from transformers import AutoProcessor

    own = any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json"))
    if not own and not (folder / _ADAPTER).is_file():
        raise InputError("the model has no processor_config.json", "fetch it again, whole", path=folder)
    place = folder if own else _base(folder)
    return AutoProcessor.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
