"""Vision-language late-interaction models: a page image, or a query, → a vector a token.

ColPali (Faysse et al. 2024, arXiv 2407.01449), ColQwen2 and ColModernVBert are classes of transformers. ColIdefics3
(the ColSmol models) is Idefics3 under a projection named `linear`; its published folders are adapters over a base.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lodesmith.core.errors import InputError, MissingExtraError
from lodesmith.core.files import read_object
from lodesmith.encoders._loading import find_model, loading

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ColIdefics3", "PageModel", "is_pages", "load_pages"]

_OF_TRANSFORMERS = ("ColPaliForRetrieval", "ColQwen2ForRetrieval", "ColModernVBertForRetrieval")
_IDEFICS = "ColIdefics3"
_ADAPTER = "adapter_config.json"
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

        state = {
            name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()
        }
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

    def save(self, folder: Path) -> None:
        """Write model and processor into a folder that is there."""
        model: Any = self.model
        model.save_pretrained(str(folder))
        self.processor.save_pretrained(str(folder))

    def features(self, item: Image | str) -> dict[str, Tensor]:
        """What the model reads of a page image or a query."""
        made = self._forms["query" if isinstance(item, str) else "document"](item)
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
        text = self._chat([{"type": "text", "text": "Describe the image."}, {"type": "image"}])
        return self.processor(text=[text], images=[[image]], return_tensors="pt")

    def _asked(self, query: str) -> Any:
        text = self._chat([{"type": "text", "text": f"Query: {query}{_AUGMENTATION}"}])
        return self.processor(text=[text], return_tensors="pt")

    def _chat(self, content: Sequence[Mapping[str, str]]) -> str:
        asked = [{"role": "user", "content": list(content)}]
        return str(self.processor.apply_chat_template(asked, add_generation_prompt=False)).strip()


def is_pages(folder: Path) -> bool:
    """Whether a model folder, or the base of an adapter, reads page images."""
    return _kind(folder) is not None or ((folder / _ADAPTER).is_file() and _adapts_pages(folder))


def _kind(folder: Path) -> str | None:
    config = folder / "config.json"
    named = (read_object(config).get("architectures") or []) if config.is_file() else []
    return next((name for name in named if name in (*_OF_TRANSFORMERS, _IDEFICS)), None)


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
    with loading(folder):
        if not (folder / _ADAPTER).is_file():
            model = _whole(folder, dtype)
        else:
            _need("peft", "peft", "lora")
            from peft import PeftModel

            base = str(read_object(folder / _ADAPTER).get("base_model_name_or_path") or "")
            under = _beside(folder, base) or find_model(base)
            model = PeftModel.from_pretrained(_whole(under, dtype), str(folder), torch_device="cpu").merge_and_unload()
        processor = _processor(folder)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return PageModel(model.to(place), processor)


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
    base = "" if own else str(read_object(folder / _ADAPTER).get("base_model_name_or_path") or "")
    place = folder if own else _beside(folder, base) or find_model(base)
    return AutoProcessor.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
