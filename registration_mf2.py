"""Registers the model family with PEFT and with transformers' Auto classes. Uses the standard library only.

Neither has an extension point for lazy registration. So the family is registered when one of its names is accessed,
and as soon as PEFT has been imported, before or after `import mf2`, because PEFT looks up configurations in a table
that must contain DFN. Auto classes without PEFT, and without a name of this package, load a checkpoint by its own code
(`trust_remote_code=True`).
"""

import importlib
import importlib.util
import sys
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_registered = False


def register() -> None:
    """Register the family, once."""
    global _registered
    if _registered:
        return
    _registered = True
    importlib.import_module("mf2.auto_mf2").register_auto_classes()


def register_with_peft() -> None:
    """Register the family now if PEFT is imported, or else right after its import."""
    if getattr(sys.modules.get("peft"), "PeftConfig", None) is not None:
        _register_beside_peft()
    else:
        sys.meta_path.insert(0, _AfterPeft())


def _register_beside_peft() -> None:
    if {"mf2.modeling_mf2", "mf2.peft_dfn"} & set(sys.modules):  # they import PEFT, and register DFN themselves
        return
    try:
        register()
    except Exception as error:  # a PEFT program may not need this package
        warnings.warn(f"MF² could not register with PEFT ({type(error).__name__}: {error}).", stacklevel=2)


class _AfterPeft(MetaPathFinder):
    """Finds PEFT by the other finders, and adds the registration to the end of its import."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "peft":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register_beside_peft()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
