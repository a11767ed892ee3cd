"""When the family becomes known to PEFT and to transformers' Auto classes. Standard library only.

Neither has an extension point that is asked before a name is looked up. So the family registers when one of its own
names is asked for, and as soon as PEFT has been imported, before or after `import mf2`: PEFT's configurations are
looked up in a table that must hold DFN by then. Auto classes alone, without PEFT and without a name of this package,
find a checkpoint by its own code (`trust_remote_code=True`).
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
    """Make the family known, once."""
    global _registered
    if _registered:
        return
    _registered = True
    importlib.import_module("mf2.auto_mf2").register_auto_classes()


def register_with_peft() -> None:
    """The same now, where PEFT is imported, else right after it will be."""
    if getattr(sys.modules.get("peft"), "PeftConfig", None) is not None:
        _register_beside_peft()
    else:
        sys.meta_path.insert(0, _AfterPeft())


def _register_beside_peft() -> None:
    if {"mf2.modeling_mf2", "mf2.peft_dfn"} & set(sys.modules):  # they import PEFT, and register DFN themselves
        return
    try:
        register()
    except Exception as error:  # whoever imports PEFT may do without this package
        warnings.warn(f"MF² could not register with PEFT ({type(error).__name__}: {error}).", stacklevel=2)


class _AfterPeft(MetaPathFinder):
    """Finds PEFT as others do, and adds the registration to the end of its import."""

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
