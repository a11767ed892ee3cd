"""Compatibility with the supported releases of transformers.

Differences are detected by signatures, not by version numbers.
"""

import difflib
import inspect
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.utils import is_peft_available

if is_peft_available():
    from peft import functional
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

# ------------------------------------------------------------------------------------------------------- generation
CACHE_NAMES = ("cache", "past_key_values")
"""Names of the key-value cache in `generate` and in model outputs, the newest first."""


def cache_name(generation_mixin: type) -> str:
    """The one of `CACHE_NAMES` that a `GenerationMixin` takes."""
    accepted = inspect.signature(generation_mixin.prepare_inputs_for_generation).parameters
    name = next((name for name in CACHE_NAMES if name in accepted), None)
    if name is None:
        raise ImportError(
            f"transformers' generation takes none of {', '.join(CACHE_NAMES)}, but {', '.join(accepted)}; "
            "install a release that this code was tested with."
        )
    return name


CACHE_NAME = cache_name(GenerationMixin)


def cache_of(kwargs: dict[str, Any]) -> Cache | None:
    """The cache among a forward pass's keyword arguments, under any of its names."""
    return next((kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None), None)


# --------------------------------------------------------------------------------------------------------- adapters
class AdapterCalls:
    """Adapter methods by PEFT's public functions in `peft.functional`; a mixin to place before `PreTrainedModel`.

    transformers' methods of these names do the same, but require the PEFT release that was current, or planned, when
    they were released, even if the adapter does not need it.
    """

    def load_adapter(self, peft_model_id: str | None = None, adapter_name: str | None = None, **kwargs: Any) -> Any:
        """As usual, but only this adapter's weights are held against its file, and they must all be there.

        transformers' own reports the weights of every other adapter of its kind as missing.
        """
        loader = logging.getLogger("transformers.integrations.peft")
        level = loader.level
        loader.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")
                info = super().load_adapter(peft_model_id, adapter_name, **kwargs)
        finally:
            loader.setLevel(level)
        name = adapter_name or "default"
        info.missing_keys = {key for key in info.missing_keys if f".{name}." in key}
        if info.missing_keys:
            raise ValueError(
                f"{peft_model_id or 'What was given'} lacks {len(info.missing_keys)} weights of its adapter, "
                f"{min(info.missing_keys)} for example."
            )
        return info

    def _check_adapters(self, *names: str) -> None:
        if not self._hf_peft_config_loaded:
            raise ValueError("No adapter is loaded; call load_adapter first.")
        if unknown := [name for name in names if name not in self.peft_config]:
            raise ValueError(
                f"No adapter is called {unknown[0]!r}; loaded are {', '.join(map(repr, self.peft_config))}."
            )

    def add_adapter(self, adapter_config: Any, adapter_name: str | None = None) -> None:
        """Add a new adapter of that `PeftConfig`, and make it the active one."""
        name = adapter_name or "default"
        if self._hf_peft_config_loaded and name in self.peft_config:
            raise ValueError(f"There is an adapter called {name!r} already; choose another name.")
        adapter_config.base_model_name_or_path = self.name_or_path
        functional.inject_adapter_in_model(adapter_config, self, name)
        self._hf_peft_config_loaded = True  # `save_pretrained` then writes the adapter alone
        self.set_adapter(name)

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Make this adapter active and trainable."""
        self._check_adapters(*([adapter_name] if isinstance(adapter_name, str) else adapter_name))
        functional.set_adapter(self, adapter_name)

    def active_adapters(self) -> list[str]:
        """Names of the active adapters, also if adapters are disabled."""
        self._check_adapters()
        return next(module.active_adapters for module in self.modules() if isinstance(module, BaseTunerLayer))

    def enable_adapters(self) -> None:
        """Enable the active adapters again."""
        self._switch_adapters(enabled=True)

    def disable_adapters(self) -> None:
        """Disable all adapters, so that the checkpoint itself is used."""
        self._switch_adapters(enabled=False)

    def _switch_adapters(self, enabled: bool) -> None:
        self._check_adapters()
        for module in self.modules():
            if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
                module.enable_adapters(enabled)

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: dict[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """An adapter's weights, by default the active one's, as `save_pretrained` writes them."""
        self._check_adapters(*([adapter_name] if adapter_name else []))
        name = adapter_name or self.active_adapters()[0]
        return functional.get_peft_model_state_dict(self, state_dict=state_dict, adapter_name=name)

    def delete_adapter(self, adapter_names: str | list[str]) -> None:
        """Delete adapters; if the active one is deleted, another one becomes active."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        self._check_adapters(*names)
        for name in names:
            prefix = f"{self.peft_config[name].peft_type.value.lower()}_"
            functional.delete_adapter(self, adapter_name=name, prefix=prefix)
            del self.peft_config[name]
        if not self.peft_config:
            del self.peft_config
            self._hf_peft_config_loaded = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradient checkpointing is on; PEFT reads this property, which transformers has deprecated."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())


# ------------------------------------------------------------------------------------------------------------- inputs
UNREAD_INPUTS = ("align_matrix", "landmarks_px", "landmarks_found", "image_index", "au_crops")
"""Outputs of a processor that the models ignore."""
NOT_GENERATION_INPUTS = (
    *UNREAD_INPUTS,
    "input_ids",
    "attention_mask",
    "au_input_ids",
    "au_attention_mask",
    "emotion_labels",
    "au_labels",
    "affect_labels",
    "caption_ids",
    "au_caption_ids",
)
"""Inputs of the model that `generate` ignores."""
_FRAMEWORK_INPUTS = ("return_dict", "use_cache")
_NOT_RETURNED = ("output_attentions", "output_hidden_states")


def refuse_not_returned(kwargs: dict[str, Any]) -> None:
    """Raise a `ValueError` for requested attentions or hidden states, which no model here returns."""
    for name in _NOT_RETURNED:
        if kwargs.get(name):
            kind = name.removeprefix("output_").replace("_", " ")
            raise ValueError(
                f"{name}={kwargs[name]!r}: {kind} are not returned; leave {name} out, or use a forward hook."
            )


def refuse_unknown(method: Callable, kwargs: dict[str, Any]) -> None:
    """Raise a `TypeError` for unknown keyword arguments; misspelt labels would otherwise be silently ignored."""
    refuse_not_returned(kwargs)
    for name in kwargs:
        if name in UNREAD_INPUTS or name in _FRAMEWORK_INPUTS + _NOT_RETURNED or kwargs[name] is None:
            continue
        known = list(inspect.signature(method).parameters)
        if name == "adapter_names":
            hint = "; it is PEFT's: use a PeftModel, or forward_adapters for the answers of several adapters"
        else:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"{method.__name__} has no argument {name!r}{hint}")


def refuse_lookahead(settings: dict[str, Any]) -> None:
    """Raise for generation that guesses several words ahead and checks them in one pass, which a caption's cache, that
    begins with the queries, does not take back."""
    config = settings.get("generation_config")
    for name in ("prompt_lookup_num_tokens", "assistant_model", "assistant_early_exit"):
        if settings.get(name) is not None or getattr(config, name, None) is not None:
            raise ValueError(
                f"{name} is not supported: captions are short and are written word by word. Leave it out."
            )
